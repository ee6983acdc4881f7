"""The bars that the pages are held to, measured on the real app: target, figure, peer's figure.

    python -m benchmarks.pages                     what takes less than a minute each, some ten minutes in all
    python -m benchmarks.pages --long              all of it, an hour of soaking included (--soak-minutes N for less)
    python -m benchmarks.pages --bars 5,6 --json   some; the last line is an object by number of target, value, holds
    python -m benchmarks.pages --small             little data: whether the measurements work, not how fast anything is

The app is a process of its own, the page a headless Chromium, and what comes in live is written by another process,
through `storage` as a trainer's reporter does. Times are of a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from dataclasses import asdict

from playwright.sync_api import Error as BrowserError

from benchmarks.page_bars.bench import Bench, Found
from benchmarks.page_bars.data import SMALL, Sizes
from benchmarks.page_bars.studio import NotSeen
from benchmarks.page_bars.table import BARS, HEAD, row


def measured(number: int, bench: Bench) -> Found:
    """One bar; one that cannot be measured says why and does not keep the others from being."""
    if BARS[number].long and not bench.long:
        return Found(None, None, "takes more than a minute: --long")
    try:
        return BARS[number].measure(bench)
    except (NotSeen, BrowserError, AssertionError) as error:  # what it waits for did not come
        return Found(None, False, " ".join(str(error).split())[:300])
    except Exception as error:  # the measurement itself is wrong; the others are not
        traceback.print_exc()
        return Found(None, None, f"{type(error).__name__}: {error}"[:300])


def numbers(text: str) -> list[int]:
    """`"5,6"` -> [5, 6]."""
    found = [int(part) for part in text.split(",")]
    if unknown := set(found) - BARS.keys():
        raise argparse.ArgumentTypeError(f"there is no bar {min(unknown)}; there are 1 to {max(BARS)}")
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=numbers, default=list(BARS), metavar="N,N", help="default: all")
    parser.add_argument("--long", action="store_true", help="also what takes more than a minute")
    parser.add_argument("--soak-minutes", type=float, default=60.0, help="of bar 9 (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="little data, few repetitions")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    results = {}
    print(f"{os.cpu_count()} cores, headless Chromium{', small data' if options.small else ''}\n\n{HEAD}", flush=True)
    needs = {BARS[number].needs for number in options.bars}
    with Bench(SMALL if options.small else Sizes(), needs, options.long, options.soak_minutes) as bench:
        for number in options.bars:
            begun = time.monotonic()
            found = measured(number, bench)
            took = round(time.monotonic() - begun, 1)
            results[number] = {"target": BARS[number].target, **asdict(found), "took_s": took}
            print(row(number, found), flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
