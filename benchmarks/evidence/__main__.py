"""Trains, measures and writes docs/evidence.md: what of BGPO's claims holds on the built-in tasks.

    python -m benchmarks.evidence                     goes on with what is missing, then writes the page
    python -m benchmarks.evidence --report            only writes the page from what is there
    python -m benchmarks.evidence --minutes 60        begins no cell after an hour
    python -m benchmarks.evidence --quick             a tiny version of everything, in a temporary folder

Every training run and every measurement is a cell with a file of its own below --work. Ctrl-C loses only what was under
way. Cells run in --processes processes with one thread each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.evidence.cells import make_missing
from benchmarks.evidence.plan import FULL, QUICK, Scale, plan

ROOT = Path(__file__).parents[2]


def main() -> None:
    arguments = _arguments()
    if not arguments.quick:
        _run(FULL, arguments.work, ROOT / "docs", arguments)
        return
    with tempfile.TemporaryDirectory(prefix="evidence-") as temporary:
        folder = arguments.output or Path(temporary)
        _run(QUICK, folder / "work", folder / "docs", arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / ".evidence", help="where cells and warm starts are kept")
    parser.add_argument("--processes", type=int, default=2, help="cells at a time, one thread each (default: 2)")
    parser.add_argument("--minutes", type=float, help="begin no cell after that time, and write the page")
    parser.add_argument("--report", action="store_true", help="only write the page from what is there")
    parser.add_argument("--quick", action="store_true", help="a tiny version of everything; leaves docs/ alone")
    parser.add_argument("--output", type=Path, help="keep the files of --quick there")
    return parser.parse_args()


def _run(scale: Scale, work: Path, docs: Path, arguments: argparse.Namespace) -> None:
    try:
        if not arguments.report:
            make_missing(plan(scale), work, arguments.processes, arguments.minutes, _say)
    except KeyboardInterrupt:
        sys.exit("Stopped; the same command goes on with what is missing, --report writes the page from what is there.")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        _report(scale, work, docs)
        sys.exit(1)
    _report(scale, work, docs)


def _say(line: str) -> None:
    print(line, flush=True)


def _report(scale: Scale, work: Path, docs: Path) -> None:
    from benchmarks.evidence.report import write
    from benchmarks.evidence.results import Results

    docs.mkdir(parents=True, exist_ok=True)
    print(f"Written: {write(Results(scale, work), docs, 'python -m benchmarks.evidence')}")


if __name__ == "__main__":
    main()
