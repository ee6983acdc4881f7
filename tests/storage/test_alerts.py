"""Alerts: kept once however often they are written, gone with their run, safe beside another process."""

import threading

import pytest

from storage.alerts import Alert, add_alerts, alert_counts, alerts_of
from storage.metrics import Point, flush, points_after, values_by_step
from storage.runs import RunNotFound, delete_run, transition

from .test_two_processes import finish, go, start

COLLAPSE = Alert(12, "collapse", "serious", "The reward fell from 0.6 to 0.1. Lower learning_rate.", 1700000000.5)
DRIFT = Alert(3, "policy_drift", "warning", "<b>Too far</b> \N{WARNING SIGN}", 1700000001.0)


def test_what_is_added_is_read_back_by_step(db, new_run):
    id, other = new_run().id, new_run().id
    add_alerts(db, id, [COLLAPSE, DRIFT])
    assert alerts_of(db, id) == [DRIFT, COLLAPSE]
    assert alerts_of(db, other) == []
    assert alert_counts(db, [id, other]) == {id: {"serious": 1, "warning": 1}, other: {}}


def test_written_again_is_there_once(db, new_run):
    id = new_run(status="running").id
    for _ in range(3):
        flush(db, id, [Point("lr", 1, 0.0, 1.0)], alerts=[COLLAPSE, DRIFT])
    assert alerts_of(db, id) == [DRIFT, COLLAPSE]


def test_a_condition_that_begins_twice_is_two_alerts(db, new_run):
    id = new_run().id
    again = Alert(90, *list(vars(COLLAPSE).values())[1:])
    add_alerts(db, id, [COLLAPSE, again])
    assert alerts_of(db, id) == [COLLAPSE, again]


def test_an_alert_and_its_points_are_stored_together_or_not_at_all(db, new_run):
    id = new_run(status="running").id
    with pytest.raises(ValueError, match="unknown severity 'loud'; available: warning, serious"):
        flush(db, id, [Point("lr", 1, 0.0, 1.0)], alerts=[Alert(1, "x", "loud", "", 0.0)])
    assert points_after(db, id, 0) == ([], 0)
    with pytest.raises(RunNotFound):
        add_alerts(db, 999, [COLLAPSE])


def test_they_go_with_their_run(db, new_run):
    id, other = new_run().id, new_run().id
    for run_id in (id, other):
        add_alerts(db, run_id, [COLLAPSE])
    transition(db, id, ("queued",), "stopped")
    delete_run(db, id)
    assert alerts_of(db, id) == [] and alerts_of(db, other) == [COLLAPSE]


WRITE = """
from storage.alerts import Alert
db, run_id, severity = Database(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
for step in range(1, 101):
    flush(db, run_id, [Point(severity, step, 0.0, 1.0)], alerts=[Alert(step, severity, severity, "m", 1.0)])
"""


def test_two_processes_write_and_nothing_is_lost(db, new_run):
    id = new_run(status="running").id
    writers = [start(WRITE, db.url, id, severity) for severity in ("warning", "serious")]
    go(*writers)
    waiting = [threading.Thread(target=finish, args=(writer,)) for writer in writers]
    for thread in waiting:
        thread.start()
    while any(thread.is_alive() for thread in waiting):
        alerts_of(db, id)  # a reader in between is neither refused nor in the way
    assert alert_counts(db, [id]) == {id: {"warning": 100, "serious": 100}}
    assert all(writer.returncode == 0 for writer in writers)


def test_values_by_step_are_those_asked_for_in_order(db, new_run):
    id = new_run().id
    names = ("lr", "reward/mean", "grad/norm")
    flush(db, id, [Point(name, step, 0.0, step / 2) for name in names for step in (3, 1, 2)])
    flush(db, id, [Point("lr", 4, 0.0, float("nan"))])
    wanted = {"lr", "reward/mean", "never/logged"}
    assert values_by_step(db, id, wanted, 2) == [
        (2, {"lr": 1.0, "reward/mean": 1.0}), (3, {"lr": 1.5, "reward/mean": 1.5}), (4, {"lr": None}),
    ]
