"""Bars of runs: the app is killed, the worker is killed, and what writing costs the worker."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time

from playwright.sync_api import Page, expect

from benchmarks.page_bars.bench import Bench, Found, ms, p95
from benchmarks.page_bars.browser import LOAD_MS, fresh_page
from benchmarks.page_bars.data import new_run
from benchmarks.page_bars.studio import Studio, wait_for
from benchmarks.page_bars.writer import names
from bgpo.jobs import control
from bgpo.jobs.narrator import Narrator
from bgpo.jobs.reporter import Reporter
from bgpo.presets import PRESETS
from storage.database import Database
from storage.metrics import points_after
from storage.runs import Run, get_run, transition

LOCKED_S = 3.0  # how long another writer keeps the database


def short_run(studio: Studio, db: Database, **values: object) -> Run:
    """A real run, queued: the built-in model on the CPU, small steps."""
    config = PRESETS["adder"].config().with_values(
        retries=0, warmup_steps=20, eval_problems=16, prompts_per_step=4, group_size=4, mc_samples=2, **values)
    return control.submit(db, config, studio.folder / "runs")


def server_killed(bench: Bench) -> Found:
    """Bar 15. `kill -9` of the app while a real run trains; the next app, asked by a page that opens the run."""
    studio = bench.empty()
    studio.start()
    db = studio.open_database()
    run = short_run(studio, db, train_steps=100_000)
    wait_for(lambda: get_run(db, run.id).step >= 2, "two steps")
    studio.kill()
    at = get_run(db, run.id).step
    wait_for(lambda: get_run(db, run.id).step >= at + 3, "three steps without an app")
    studio.start()
    with fresh_page(bench.browser) as page:
        begun = time.perf_counter()
        page.goto(f"{studio.url}/?run={run.id}")
        step = shown_step(page, at)
        again = time.perf_counter() - begun
    control.stop(db, run.id)
    wait_for(lambda: get_run(db, run.id).status == "stopped", "the run to stop")
    points, _ = points_after(db, run.id, 0, limit=10**7)
    steps = {point.step for point in points if point.metric == "reward/mean"}
    lost = len(set(range(min(steps), max(steps) + 1)) - steps)
    db.close()
    studio.stop()
    value = {"steps lost": lost, "shown again_s": round(again, 2), "steps meanwhile": step - at}
    return Found(value, lost == 0 and again <= 5)


def shown_step(page: Page, after: int) -> int:
    """The step that the page has of the run, once it is beyond `after`."""
    return int(page.wait_for_function(
        "after => { const run = window.bgpo?.live.focus(); return run && run.step > after && run.status === 'running'"
        " && document.querySelector('.bgpo-run-header .one h2')?.textContent ? run.step : null; }",
        arg=after).json_value())


def worker_killed(bench: Bench) -> Found:
    """Bar 16. `kill -9` of a training process, with a page open and another run queued behind it."""
    studio = bench.empty()
    studio.start()
    db = studio.open_database()
    first = short_run(studio, db, train_steps=100_000)
    wait_for(lambda: get_run(db, first.id).step >= 1, "a step")
    second = short_run(studio, db, train_steps=100_000, seed=1)
    with fresh_page(bench.browser) as page:
        page.goto(f"{studio.url}/?run={first.id}")
        expect(page.locator(".bgpo-run-header .bgpo-chip").first).to_be_visible(timeout=LOAD_MS)
        begun = time.perf_counter()
        os.kill(get_run(db, first.id).pid, signal.SIGKILL)
        wait_for(lambda: get_run(db, first.id).status == "failed", "the run to fail")
        failed = time.perf_counter() - begun
        cause = page.locator(".bgpo-run-header .failure")
        expect(cause).to_be_visible(timeout=LOAD_MS)
        shown, words = time.perf_counter() - begun, cause.inner_text()
        wait_for(lambda: get_run(db, second.id).status in ("launching", "running"), "the next run to start")
        following = time.perf_counter() - begun
    db.close()
    studio.stop()
    value = {"failed_s": round(failed, 2), "cause shown_s": round(shown, 2), "next starts_s": round(following, 2)}
    return Found(value, shown <= 5 and following <= 10 and "kill" in words.lower(), "" if words else "no cause")


def writing(bench: Bench) -> Found:
    """Bar 17. What the training thread waits for when it reports a step of twenty metrics, also while another process
    keeps the database to itself; afterwards every step has to be there."""
    studio = bench.empty()
    db = studio.open_database()
    run = new_run(db, studio.folder / "runs", "writing", 10**6)
    transition(db, run.id, ("stopped",), "running")
    reporter = Reporter(db, get_run(db, run.id), Narrator(None))
    steps = 20 * bench.sizes.ticks
    with contextlib.redirect_stdout(io.StringIO()), contextlib.closing(reporter):
        free = report(reporter, range(steps))
        locked = threading.Thread(target=keep, args=(Database(studio.database),))
        locked.start()
        time.sleep(0.1)
        busy = report(reporter, range(steps, 2 * steps), LOCKED_S / steps)
        locked.join()
    kept = len({point.step for point in points_after(db, run.id, 0, limit=10**7)[0]})
    db.close()
    value = {"p95_ms": ms(p95(free)), "longest while locked_ms": ms(max(busy)), "steps kept": kept, "of": 2 * steps}
    return Found(value, p95(free) <= 0.002 and max(busy) <= 0.1 and kept == 2 * steps)


def report(reporter: Reporter, steps: range, every: float = 0.005) -> list[float]:
    values, taken = dict.fromkeys(names(20), 0.5), []
    for step in steps:
        begun = time.perf_counter()
        reporter.metrics(step, values)
        taken.append(time.perf_counter() - begun)
        time.sleep(every)
    return taken


def keep(db: Database) -> None:
    with db.write():
        time.sleep(LOCKED_S)
    db.close()
