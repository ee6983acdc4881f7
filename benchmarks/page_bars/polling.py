"""Bars of the poll: its bytes, the server's time for it, from a commit to the pixel, five viewers at once."""

from __future__ import annotations

import statistics
import threading
import time

from benchmarks.page_bars.bench import Bench, Found, ms, p95
from benchmarks.page_bars.browser import bring, fresh_page
from benchmarks.page_bars.studio import Answer, Viewer, Writer, wait_for

VIEWERS = 5


def polls(viewer: Viewer, count: int, every: float) -> list[Answer]:
    found = []
    for _ in range(count):
        found.append(viewer.poll())
        time.sleep(every)
    return found


def has_points(answer: Answer) -> bool:
    return bool(answer.content.get("points"))


def bytes_per_tick(bench: Bench) -> Found:
    """Bar 5. Bodies as they are on the wire, while five steps of twenty metrics come a second, and when none does."""
    sizes, run_id = bench.sizes, bench.filled.writing
    with Writer(bench.big, run_id, every=sizes.seconds, steps=5, count=10_000):
        viewer = Viewer(bench.big.client(), run_id)
        # no more than what one second brings is in an answer
        found = [a for a in polls(viewer, sizes.ticks, sizes.seconds) if has_points(a)]
        most = max(len(metric[0]) for a in found for metric in a.content["points"][str(run_id)]["metrics"].values())
    wait_for(lambda: viewer.poll().content.get("same"), "the run to be at rest")
    idle = max(answer.bytes for answer in polls(viewer, 5, sizes.seconds))
    each = p95([answer.bytes for answer in found])
    value = {"p95_bytes": round(each), "most steps in one": most, "idle_bytes": idle}
    return Found(value, each <= 2048 and idle <= 200)


def server_time(bench: Bench) -> Found:
    """Bar 6. The whole request as its client sees it, at the long run among all runs, while a step a tick comes."""
    sizes, run_id = bench.sizes, bench.filled.long
    every = sizes.seconds / 2
    with Writer(bench.big, run_id, first=sizes.long, every=every, count=10_000):
        viewer = Viewer(bench.big.client(), run_id)
        busy = [a.seconds for a in polls(viewer, sizes.ticks, every) if has_points(a)]
    wait_for(lambda: viewer.poll().content.get("same"), "the run to be at rest")
    idle = [a.seconds for a in polls(viewer, sizes.ticks // 2, 0.1)]
    value = {"p95_ms": ms(p95(busy)), "median_ms": ms(statistics.median(busy)), "idle_p95_ms": ms(p95(idle)),
             "runs": bench.sizes.runs}
    return Found(value, p95(busy) <= 0.010 and p95(idle) <= 0.010)




def commit_to_pixel(bench: Bench) -> Found:
    """Bar 7. Twenty metrics on the whole board; the chart on top is the one that is looked at."""
    sizes, run_id = bench.sizes, bench.filled.writing
    # an odd rhythm, so that commits meet the poll at every phase
    writing = Writer(bench.big, run_id, first=100_000, every=1.13, count=10_000)
    with writing as writer, fresh_page(bench.browser) as page:
        page.goto(f"{bench.big.url}/?run={run_id}")
        bring(page, "grad_norm")
        page.evaluate("probes.watchPaint('grad_norm')")
        first = max(writer.times())
        page.wait_for_timeout(1130 * min(sizes.ticks, 40))
        painted = page.evaluate("probes.painted")
        times = {step: at for step, at in writer.times().items() if step > first}
    waits = [min(at for last, at in painted if last >= step) - committed for step, committed in times.items()
             if any(last >= step for last, _ in painted)]
    value = {"p95_s": round(p95(waits), 2), "median_s": round(statistics.median(waits), 2), "steps": len(waits)}
    return Found(value, p95(waits) <= 1.5)


def five_viewers(bench: Bench) -> Found:
    """Bar 24. The same viewer's median, alone and beside four others that poll once a second, too."""
    sizes, run_id = bench.sizes, bench.filled.writing
    with Writer(bench.big, run_id, first=200_000, every=sizes.seconds, count=10_000):
        mine = Viewer(bench.big.client(), run_id)
        alone = [answer.seconds for answer in polls(mine, sizes.ticks // 2, sizes.seconds)]
        done = threading.Event()

        def watch(place: int) -> None:
            viewer = Viewer(bench.big.client(), run_id)
            time.sleep(place * sizes.seconds / VIEWERS)
            while not done.wait(sizes.seconds):
                viewer.poll()

        others = [threading.Thread(target=watch, args=(place,)) for place in range(1, VIEWERS)]
        for other in others:
            other.start()
        together = [answer.seconds for answer in polls(mine, sizes.ticks // 2, sizes.seconds)]
        done.set()
        for other in others:
            other.join()
    one, five = statistics.median(alone), statistics.median(together)
    return Found({"one_ms": ms(one), "five_ms": ms(five), "ratio": round(five / one, 2)}, five <= 1.5 * one)
