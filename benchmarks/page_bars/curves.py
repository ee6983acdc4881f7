"""Bars of the charts: what stays through a thousand ticks and an hour, an outlier, a zoom, twenty runs at once."""

from __future__ import annotations

import random
import statistics

from playwright.sync_api import Page, Response

from benchmarks.page_bars.bench import Bench, Found, ms, p95
from benchmarks.page_bars.browser import Load, bring, charts, drag, fresh_page, noted
from benchmarks.page_bars.data import SIX
from benchmarks.page_bars.studio import Writer
from storage.metrics import Point, flush

OUTLIER = 9.0



def kept_through_ticks(bench: Bench) -> Found:
    """Bar 8. Zoom, a hidden curve, the scroll position and the very nodes, while new points come in."""
    ticks, run_id = (1000 if bench.long else min(60, bench.sizes.ticks)), bench.filled.writing
    with Writer(bench.big, run_id, first=300_000, every=0.05, count=100_000), fresh_page(bench.browser) as page:
        page.goto(f"{bench.big.url}/?run={run_id}&hide=bound.1&z=300000,300040&sm=0.4")
        bring(page, "grad_norm")
        page.wait_for_timeout(800)
        page.evaluate("probes.mark()")
        before = state(page)
        page.evaluate("count => probes.ticks(count)", ticks)
        after = state(page)
    kept = [name for name in before if before[name] == after[name]]
    share = len(kept) / len(before)
    value = {"ticks": ticks, "kept_percent": round(100 * share), "charts": len(before["windows"])}
    return Found(value, share == 1 if ticks == 1000 or before != after else None,
                 "" if ticks == 1000 else "with --long: 1,000 ticks")


def state(page: Page) -> dict:
    seen = charts(page)
    windows, curves = ({name: one[part] for name, one in seen.items()} for part in ("x", "names"))
    return page.evaluate("probes.kept()") | {"windows": windows, "curves": curves}


def soak(bench: Bench) -> Found:
    """Bar 9. Six charts with a step a second; heap and nodes after a collection, the main thread every ten seconds."""
    if not bench.long:
        return Found(None, None, "takes an hour: --long, or a shorter one with --long --soak-minutes N")
    run_id, minutes = bench.filled.writing, bench.soak_minutes
    with Writer(bench.big, run_id, first=400_000, every=1, count=100_000), fresh_page(bench.browser) as page:
        page.goto(f"{bench.big.url}/?run={run_id}&charts={','.join(SIX)}")
        noted(page, "six")
        page.wait_for_timeout(20_000)
        load, busy = Load(page), []
        first = last = load.collected()
        for _ in range(max(1, round(minutes * 6))):
            before = load.metrics()
            page.wait_for_timeout(10_000)
            last = load.metrics()
            busy.append((last["TaskDuration"] - before["TaskDuration"]) / (last["Timestamp"] - before["Timestamp"]))
        last = load.collected()
    heap, nodes = (last["JSHeapUsedSize"] - first["JSHeapUsedSize"]) / 1e6, last["Nodes"] / first["Nodes"] - 1
    thread = statistics.median(busy)
    value = {"minutes": minutes, "heap_mb": round(heap, 1), "nodes_percent": round(100 * nodes, 1),
             "main_thread_percent": round(100 * thread)}
    holds = heap <= 10 and abs(nodes) <= 0.05 and thread <= 0.3
    return Found(value, holds if minutes >= 60 or not holds else None, "" if minutes >= 60 else "shorter than an hour")




def outlier(bench: Bench) -> Found:
    """Bar 10. One step of a whole run is written as 9 or more, each higher than the one before, where all else is below
    1; the drawn chart has to show it. Then it is put back."""
    metric, sizes, seen = "grad/norm", bench.sizes, 0
    chance, db = random.Random(7), bench.big.open_database()
    with fresh_page(bench.browser) as page:
        page.goto(f"{bench.big.url}/?run={bench.filled.long}&charts={metric}")
        page.locator(".chart .nsewdrag").first.wait_for()
        for place in range(sizes.positions):
            step, value = chance.randrange(sizes.long), OUTLIER + place / 100
            flush(db, bench.filled.long, [Point(metric, step, step * 0.5, value)])
            seen += page.evaluate("([chart, value]) => probes.peaks(chart, value)", [metric, value])
            flush(db, bench.filled.long, [Point(metric, step, step * 0.5, (step * 7919 % 1000) / 1000)])
    db.close()
    return Found({"seen": seen, "of": sizes.positions, "steps": sizes.long}, seen == sizes.positions)


def zoom(bench: Bench) -> Found:
    """Bar 11. One chart of the long run: a drag over a third of what is shown, three times, each in a new page."""
    metric, times, answers = "grad/norm", [], []

    def heard(answer: Response) -> None:
        if "/api/range" in answer.url:
            answers.append(body(answer))

    for place in (0.1, 0.35, 0.6):
        with fresh_page(bench.browser) as page:
            page.on("requestfinished", lambda request: heard(request.response()))
            page.goto(f"{bench.big.url}/?run={bench.filled.long}&charts={metric}")
            page.locator(".chart .nsewdrag").first.wait_for()
            page.wait_for_timeout(500)
            page.evaluate("chart => probes.watchZoom(chart)", metric)
            drag(page, metric, place, place + 0.3)
            times.append(page.wait_for_function("probes.refined").json_value() / 1000)
            page.wait_for_timeout(200)
    took, most = statistics.median(times), max(answers)
    return Found({"ms": ms(took), "kb": round(most / 1000, 1)}, took <= 0.3 and most <= 20_000)


def body(answer: Response) -> int:
    return int(answer.header_value("content-length") or len(answer.body()))




def twenty_runs(bench: Bench) -> Found:
    """Bar 18. Twenty runs of a thousand steps on six charts, then the mouse along one of them."""
    ids = list(bench.filled.compared)
    with fresh_page(bench.browser) as page:
        page.goto(f"{bench.big.url}/?run={ids[0]}&charts={','.join(SIX)}")
        noted(page, "six")
        drawn = page.evaluate("ids => probes.compare(ids)", ids) / 1000
        area = page.locator(f'[data-chart="{SIX[1]}"] .nsewdrag').first
        box = area.bounding_box()
        page.evaluate("probes.watchHover()")
        for place in range(30):
            page.mouse.move(box["x"] + box["width"] * (0.1 + 0.025 * place), box["y"] + box["height"] / 2)
            page.wait_for_timeout(60)
        hovers = [time / 1000 for time in page.evaluate("probes.hovers")]
    value = {"runs": len(ids), "draw_s": round(drawn, 2), "hover_median_ms": ms(statistics.median(hovers)),
             "hover_p95_ms": ms(p95(hovers))}
    return Found(value, drawn <= 2 and p95(hovers) <= 0.05)
