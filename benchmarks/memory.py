"""Memory against mc_samples: BGPO beside the plain ELBO objective, each cell in a fresh process.

    python -m benchmarks.memory            a table
    python -m benchmarks.memory --json     the same as one JSON object on the last line

"Saved" is the peak of bytes that autograd holds for backward (each storage once, parameters not counted).
"RSS" is how far the resident peak of the process rises above what was resident just before the update.
The update is the trainer's own, on the tiny model with random weights: 128 completions of 16 tokens after a
prompt of 16, one mask draw of all of them per pass.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

MC_SAMPLES = (1, 4, 16, 64)
OBJECTIVES = ("bgpo", "elbo")
B, P, L = 128, 16, 16


def measure(objective: str, mc_samples: int) -> dict[str, float]:
    """One update in this process; MB."""
    import torch

    from bgpo.algorithm.masking import draw_masks
    from bgpo.algorithm.objectives import OBJECTIVES as REGISTRY
    from bgpo.algorithm.surrogate import Surrogate
    from bgpo.models.tiny import build_tiny
    from bgpo.training.likelihood import Batch, Passes, accumulate
    from bgpo.training.machine import SavedBytes

    generator = torch.Generator().manual_seed(0)
    model = build_tiny(generator)

    def batch(K: int, rows: int) -> Batch:
        ids = torch.randint(3, 50, (rows, P + L), generator=generator)
        advantage = torch.randn(rows, generator=generator)
        return Batch(
            ids[:, :P], ids[:, P:], draw_masks(rows, K, L, generator), advantage, torch.zeros(rows), torch.ones(rows),
            torch.full((rows,), P), torch.zeros(rows, L),
        )

    surrogate, passes = Surrogate(REGISTRY[objective], {}), Passes(B * (P + L))
    # gradient buffers and lazily loaded kernels belong to both sides alike
    accumulate(model, batch(1, 2), surrogate, B, passes)
    work = batch(mc_samples, B)
    before = reset_peak_rss_mb()
    saved = SavedBytes(model.model)
    with saved:
        accumulate(model, work, surrogate, B, passes)
    return {"saved_mb": round(saved.peak_mb, 2), "rss_mb": round(peak_rss_mb() - before, 1)}


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def reset_peak_rss_mb() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def peak_rss_mb() -> float:
    return _status_mb("VmHWM")


def in_a_fresh_process(objective: str, mc_samples: int) -> dict[str, float]:
    """`measure`, where nothing was resident before but what it imports: forked from a process that did no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bgpo.models.tiny", "bgpo.training.likelihood"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(measure, objective, mc_samples).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("benchmarks.memory reads the resident peak from /proc/self; run it on Linux.")
    results: dict[str, dict] = {objective: {} for objective in OBJECTIVES}
    print(f"{'mc_samples':>10} | {'BGPO saved':>10} {'RSS':>8} | {'ELBO saved':>10} {'RSS':>8}   (MB)")
    for mc_samples in MC_SAMPLES:
        for objective in OBJECTIVES:
            results[objective][str(mc_samples)] = in_a_fresh_process(objective, mc_samples)
        bgpo, elbo = (results[objective][str(mc_samples)] for objective in OBJECTIVES)
        print(f"{mc_samples:>10} | {bgpo['saved_mb']:>10.1f} {bgpo['rss_mb']:>8.1f} | "
              f"{elbo['saved_mb']:>10.1f} {elbo['rss_mb']:>8.1f}", flush=True)
    most, least = str(MC_SAMPLES[-1]), str(MC_SAMPLES[0])
    results["saved_ratio_64"] = round(results["bgpo"][most]["saved_mb"] / results["bgpo"][least]["saved_mb"], 4)
    print(f"BGPO at {most} draws holds {results['saved_ratio_64']:.3f} times what it holds at {least}.")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
