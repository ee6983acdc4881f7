"""One database, several real processes: nothing lost, nothing claimed twice, nothing half written."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from storage.metrics import Point, flush, points_after, series
from storage.queue import Offer, claim_next, leases
from storage.runs import get_run, list_runs, run_events
from storage.tables import point, run
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PRELUDE = """
import json, sys, time
from storage.database import Database, open_database
from storage.metrics import Point, Progress, flush
from storage.queue import Offer, claim_next
"""
SLOTS = Offer(tuple(f"cpu@here:{number}" for number in range(1000)))
POINTS = 20  # per step

WRITE = f"""
db, run_id, steps = Database(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for step in range(1, steps + 1):
    points = [Point(f"m{{k}}", step, step * 0.1, float(k)) for k in range({POINTS})]
    flush(db, run_id, points, [], Progress("training", step, steps, None, step, step * 0.1))
    print(step, flush=True)
"""

WRITE_FOR = f"""
db, run_id, seconds = Database(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
end, step = time.monotonic() + seconds, 0
while step == 0 or time.monotonic() < end:
    step += 1
    points = [Point(f"m{{k}}", step, step * 0.1, float(k)) for k in range({POINTS})]
    flush(db, run_id, points, [], Progress("training", step, 10**6, None, step, step * 0.1))
print(step, flush=True)
"""

CLAIM = """
db, claimed = Database(sys.argv[1]), []
print("ready", flush=True)
sys.stdin.readline()
slots = Offer(tuple(f"cpu@here:{number}" for number in range(1000)))
while run := claim_next(db, slots, who=sys.argv[2]):
    claimed.append(run.id)
print(json.dumps(claimed), flush=True)
"""

OPEN = """
print("ready", flush=True)
sys.stdin.readline()
open_database(sys.argv[1])
print("opened", flush=True)
"""


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process


def go(*processes):
    """Lets all of them begin at the same moment, once each has imported what it needs."""
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def finish(process, patience=PATIENCE):
    out, err = process.communicate(timeout=patience)
    assert (process.returncode, err) == (0, "")
    return out


def assert_sound(db):
    if db.path:
        with db.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []


def test_two_writers_and_a_reader(db, new_run):
    steps = 60
    runs = [new_run(status="running").id for _ in range(2)]
    writers = [start(WRITE, db.url, id, steps) for id in runs]
    go(*writers)
    results = []
    waiting = [threading.Thread(target=lambda w=writer: results.append(finish(w))) for writer in writers]
    for thread in waiting:
        thread.start()
    cursors, seen = dict.fromkeys(runs, 0), {id: [] for id in runs}
    while True:
        last_look = not any(thread.is_alive() for thread in waiting)
        for id in runs:
            part, cursors[id] = points_after(db, id, cursors[id])
            # one transaction per step: a reader never sees a part of one
            assert len(part) % POINTS == 0
            seen[id] += part
        if last_look:
            break
    assert len(results) == 2
    for id in runs:
        assert len(seen[id]) == steps * POINTS
        assert len(series(db, id, "m0", buckets=steps)) == steps
        assert get_run(db, id).step == steps


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_four_writers_and_a_reader_lose_no_row_and_none_hears_that_the_database_is_locked(db, new_run, seconds):
    runs = [new_run(status="running").id for _ in range(4)]
    writers = [start(WRITE_FOR, db.url, id, seconds) for id in runs]
    go(*writers)
    results = {}
    waiting = [
        threading.Thread(target=lambda id=id, w=writer: results.update({id: int(finish(w, PATIENCE + seconds))}))
        for id, writer in zip(runs, writers)
    ]
    for thread in waiting:
        thread.start()
    cursors, seen = dict.fromkeys(runs, 0), dict.fromkeys(runs, 0)
    while True:
        last_look = not any(thread.is_alive() for thread in waiting)
        for id in runs:
            part, cursors[id] = points_after(db, id, cursors[id])
            assert len(part) % POINTS == 0
            seen[id] += len(part)
            while last_look and part:
                part, cursors[id] = points_after(db, id, cursors[id])
                seen[id] += len(part)
        if last_look:
            break
    assert set(results) == set(runs)  # each ended without a word of complaint
    assert seen == {id: steps * POINTS for id, steps in results.items()}
    assert all(get_run(db, id).step == steps for id, steps in results.items())
    assert_sound(db)


def test_a_writer_that_reads_first_is_not_overtaken(db, new_run):
    id = new_run(status="running").id
    other = threading.Thread(target=flush, args=(db, id, [Point("lr", 1, 0.0, 1.0)]))
    with db.write() as connection:
        connection.execute(select(run.c.status)).all()
        other.start()
        other.join(0.3)  # time enough to get in between, were it possible
        connection.execute(update(run).where(run.c.id == id).values(name="renamed"))
    other.join()
    assert get_run(db, id).name == "renamed"
    assert len(points_after(db, id, 0)[0]) == 1


def test_two_processes_claim_each_queued_run_once(db, new_run):
    ids = [new_run().id for _ in range(40)]
    claimers = [start(CLAIM, db.url, name) for name in ("one", "two")]
    go(*claimers)
    claimed = [json.loads(finish(process)) for process in claimers]
    assert sorted(claimed[0] + claimed[1]) == ids
    assert all(part == sorted(part) for part in claimed)
    assert claim_next(db, SLOTS) is None
    assert sorted(lease.run_id for lease in leases(db)) == ids
    for claimed_run in list_runs(db):
        assert [event.to_status for event in run_events(db, claimed_run.id)] == ["queued", "launching"]


def test_a_killed_writer_leaves_whole_steps_and_a_sound_file(db, new_run):
    id = new_run(status="running").id
    acknowledged = 0
    for after in (5, 17):
        writer = start(WRITE, db.url, id, 10**6)
        go(writer)
        for _ in range(after):
            acknowledged = max(acknowledged, int(writer.stdout.readline()))
        time.sleep(0.01)
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.communicate()[0].split()
        acknowledged = max([acknowledged, *map(int, rest)])
        stored, _ = points_after(db, id, 0, limit=10**6)
        steps = {point.step for point in stored}
        assert acknowledged <= max(steps) <= acknowledged + 1
        assert len(stored) == len(steps) * POINTS
        assert steps == set(range(1, max(steps) + 1))
        assert get_run(db, id).step in steps
    assert_sound(db)


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_writers_killed_at_random_moments_leave_whole_steps_and_a_sound_file(db, new_run, kills):
    """Four at a time, so that they die waiting for the lock as well as holding it; a new one takes each one's place."""
    chance = random.Random(kills)
    runs = [new_run(status="running").id for _ in range(4)]
    writers = {id: start(WRITE, db.url, id, 10**6) for id in runs}
    go(*writers.values())
    acknowledged = dict.fromkeys(runs, 0)
    for number in range(kills):
        id = runs[number % len(runs)]
        first = int(writers[id].stdout.readline())
        time.sleep(chance.random() * 0.3)
        os.kill(writers[id].pid, signal.SIGKILL)
        out = writers[id].communicate()[0]
        # half a line is no word
        acknowledged[id] = max(acknowledged[id], first, *map(int, out[: out.rfind("\n") + 1].split()))
        if number < kills - len(runs):
            writers[id] = start(WRITE, db.url, id, 10**6)
            go(writers[id])
    for writer in writers.values():
        writer.kill()
        writer.communicate()
    for id in runs:
        with db.read() as connection:
            counts = connection.execute(
                select(point.c.step, func.count()).where(point.c.run_id == id).group_by(point.c.step)
            ).all()
        assert {count for _, count in counts} == {POINTS}
        assert sorted(step for step, _ in counts) == list(range(1, len(counts) + 1))
        assert acknowledged[id] <= len(counts)
        assert 1 <= get_run(db, id).step <= len(counts)
    assert_sound(db)


def test_two_processes_create_one_database(tmp_path):
    url = f"sqlite:///{tmp_path}/new/bgpo.db"
    openers = [start(OPEN, url) for _ in range(2)]
    go(*openers)
    assert [finish(process) for process in openers] == ["opened\n"] * 2
