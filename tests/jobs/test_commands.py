"""The command line of the runs: the same rows as the pages write, JSON for scripts, exit codes that mean something."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bgpo.config import TrainConfig
from bgpo.jobs.command import flag
from bgpo.jobs.commands import main
from bgpo.jobs.scheduler import Scheduler
from bgpo.presets import PRESETS
from storage import queue
from storage.checkpoints import add_checkpoint
from storage.queue import queued_runs
from storage.runs import HIGH, RunNotFound, get_run, list_runs, transition
from storage.settings import queue_paused

from .conftest import QUICK, ROOT


@pytest.fixture
def jobs(db, capsys):
    """Runs a command on the test's database: (exit code, stdout, stderr)."""

    def jobs(*words: object) -> tuple[int, str, str]:
        command, *rest = map(str, words)
        try:
            code = main([command, "--database", db.url, *rest])
        except SystemExit as error:  # argparse's own
            code = error.code
        return code, *capsys.readouterr()

    return jobs


def answer(done: tuple[int, str, str]):
    code, out, err = done
    assert code == 0, err
    return json.loads(out)


def test_start_only_queues_and_says_so_where_no_app_runs(db, jobs, data):
    code, out, err = jobs("start", "--preset", "adder", "--mc-samples", 16, "--name", "draws", "--priority", "high")
    run = get_run(db, 1)
    assert code == 0 and "queued, no. 1" in out and "No app is running on this database" in err
    assert (run.status, run.name, run.priority) == ("queued", "draws", HIGH)
    assert Path(run.folder) == data / "runs" / "1"
    scheduler = Scheduler(db)
    scheduler.be_present()
    assert jobs("start")[2] == ""


def test_a_reader_that_has_seen_enough_gets_no_traceback(db, row):
    for _ in range(40):
        row("finished", TrainConfig().to_json() + " " * 2000)
    words = [sys.executable, "-m", "bgpo.jobs", "list", "--json", "--database", db.url]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 0


def test_a_run_that_waits_for_another_says_so(db, jobs):
    jobs("start")
    assert "queued, no. 2, after run 1" in jobs("start", "--after", 1)[1]


def test_list_is_a_table_or_json(db, jobs, row):
    done, broken = row("finished", TrainConfig().to_json()), row("running", TrainConfig().to_json())
    transition(db, broken.id, ("running",), "failed", reason="It broke.", failure_kind="killed")
    code, out, _ = jobs("list")
    assert code == 0 and [line.split()[0] for line in out.splitlines() if line[4] != " "] == ["2", "1"]
    assert "It broke." in out
    rows = answer(jobs("list", "--json"))
    assert [(row["id"], row["status"], row["failure_kind"]) for row in rows] == [
        (broken.id, "failed", "killed"), (done.id, "finished", "")]
    assert rows[0]["config"]["mc_samples"] == 4
    assert [row["id"] for row in answer(jobs("list", "--json", "--status", "finished"))] == [done.id]


def test_stop_pause_resume_and_rm(db, jobs, row):
    first, second = row(), row()
    assert [run["status"] for run in answer(jobs("pause", first.id, second.id, "--json"))] == ["paused", "paused"]
    assert answer(jobs("resume", first.id, "--json"))[0]["status"] == "queued"
    assert answer(jobs("stop", first.id, "--json"))[0]["status"] == "stopped"
    code, _, err = jobs("rm", first.id)
    assert code == 2 and "add --yes to mean it" in err and get_run(db, first.id)
    assert answer(jobs("rm", first.id, "--yes", "--json")) == [{"id": first.id, "deleted": True}]
    with pytest.raises(RunNotFound):
        get_run(db, first.id)


@pytest.mark.parametrize("words, code, sentence", [
    (("stop", 99), 3, "Run 99 does not exist"), (("stop", 1, 99), 3, "Run 99 does not exist"),
    (("resume", 1), 4, "Run 1 is queued"), (("rm", 2, "--yes"), 4, "still working; stop it first"),
    (("stop", "one"), 2, "invalid int value"), (("start", "--mc-samples", 0), 2, "mc_samples = 0 is not allowed"),
    (("start", "--at", "soon"), 2, "is no time"), (("start", "--after", 99), 3, "Run 99 does not exist"),
    (("start", "--sweep", "x = 1"), 2, "names no knob"), (("queue", "move", 1), 2, "Give a run and its new place"),
    (("start", "--here", "--sweep", "seed = 0..1"), 2, "a terminal holds one"), (("fork", "1@5"), 2, "no checkpoint"),
    (("start", "--at", "in 9999999 d"), 2, "is not between 1970 and 2100; write 22:30"),
    (("start", "--here", "--at", "22:30"), 2, "begins at once; leave out --here or --at"),
    (("start", "--here", "--after", 1, "--priority", "low"), 2, "leave out --here or --priority, --after"),
    (("fork", 2, "--here"), 2, "run 2 has not ended; start this one when it has, or name one of its steps: run:2@STEP"),
    (("start", "--data-dir", "/tmp/\udcff"), 2, "'/tmp/\\udcff' is not text in UTF-8"),
    (("fork", "one"), 2, "is not a run's number"), (("frobnicate",), 2, "invalid choice"),
    (("queue", "move", 2, 1), 4, "no place in the queue"), (("list", "--status", "odd"), 2, "invalid choice"),
])
def test_wrong_wishes_get_one_sentence_and_a_code(db, jobs, row, words, code, sentence):
    row("queued", TrainConfig().to_json()), row("running", TrainConfig().to_json())
    given, out, err = jobs(*words)
    assert (given, out) == (code, "") and sentence in err and len(err.strip().splitlines()) == 1
    assert [run.status for run in list_runs(db)] == ["running", "queued"]


def test_a_time_that_was_stored_all_the_same_breaks_no_list(db, jobs, row):
    run = row("queued", TrainConfig().to_json())
    queue.plan(db, run.id, start_at=8.6e11)
    assert "queued, the year 29222" in jobs("list")[1] and "queued, the year 29222" in jobs("queue", "show")[1]


def test_rm_takes_a_run_and_those_that_start_from_it_in_any_order(db, jobs, row):
    parent = row("finished", TrainConfig().to_json())
    add_checkpoint(db, parent.id, 5, "evaluation", f"{parent.folder}/checkpoints/step-5", 0.5)
    child = answer(jobs("fork", f"{parent.id}@5", "--json"))[0]["id"]
    code, _, err = jobs("rm", parent.id, "--yes")
    assert code == 4 and f"run {child}, which is queued, starts from it" in err
    assert answer(jobs("rm", parent.id, child, "--yes", "--json"))[0] == {"id": parent.id, "deleted": True}
    assert list_runs(db) == []


def test_a_wrong_database_gets_one_sentence(capsys):
    assert main(["list", "--database", "mysql://host/db"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_fork_takes_a_checkpoint_and_changes_knobs(db, jobs, row):
    parent = row("finished", TrainConfig(seed=7).to_json())
    add_checkpoint(db, parent.id, 5, "evaluation", "/runs/step-5", 0.5)
    made = answer(jobs("fork", f"{parent.id}@5", "--learning-rate", "1e-4", "--json"))[0]
    assert (made["parent_id"], made["parent_step"]) == (parent.id, 5)
    assert made["config"] == json.loads(
        TrainConfig(seed=7, learning_rate=1e-4, start_from="/runs/step-5").to_json())


def test_evaluate_waits_for_a_run_that_goes_on_and_measures_one_that_has_ended(db, jobs, row):
    going, ended = row("running", TrainConfig(seed=7).to_json()), row("finished", TrainConfig().to_json())
    waits = answer(jobs("evaluate", going.id, "--json"))[0]
    assert (waits["after_id"], waits["status"], waits["config"]["job"]) == (going.id, "queued", "evaluate")
    assert waits["config"]["start_from"] == f"run:{going.id}@best" and waits["config"]["seed"] == 7
    add_checkpoint(db, ended.id, 5, "evaluation", "/runs/step-5", 0.5)
    made = answer(jobs("evaluate", f"{ended.id}@5", "--json"))[0]
    assert (made["after_id"], made["parent_step"], made["config"]["start_from"]) == (None, 5, "/runs/step-5")
    assert jobs("evaluate", made["id"])[0] == 4 and "leaves no checkpoint" in jobs("evaluate", made["id"])[2]
    assert jobs("evaluate", 99)[0] == 3


@pytest.mark.parametrize("preset", ["llada_gsm8k", "finetune_adder"])
def test_what_goes_on_from_a_run_leaves_behind_what_that_began_with(db, jobs, row, preset):
    config = PRESETS[preset].config()
    run = row("finished", config.to_json())
    add_checkpoint(db, run.id, 5, "evaluation", "/runs/step-5", 0.5)
    for command, job in (("evaluate", "evaluate"), ("fork", config.job)):
        made = answer(jobs(command, f"{run.id}@5", "--json"))[0]["config"]
        assert (made["job"], made["start_from"], made["model_path"]) == (job, "/runs/step-5", "")
        assert made["examples"] == (config.examples if job == "finetune" else "")
        assert (made["model"], made["task"]) == (config.model, config.task)
    onward = answer(jobs("fork", f"{run.id}@5", "--job", "train", "--json"))[0]["config"]
    assert (onward["job"], onward["examples"]) == ("train", "")


def test_a_job_without_checkpoints_is_refused_its_evaluation_before_it_is_queued(db, jobs):
    code, _, said = jobs("start", "--preset", "adder", "--job", "probe", "--evaluate")
    assert code == 4 and "leaves no checkpoint to evaluate" in said and not list_runs(db)


@pytest.mark.parametrize("preset", ["adder", "llada_gsm8k"])
def test_start_with_its_evaluation_is_one_command(db, jobs, preset):
    run, evaluation = answer(jobs("start", "--preset", preset, "--evaluate", "--json"))
    assert (evaluation["after_id"], evaluation["name"]) == (run["id"], f"evaluate {run['name']}")


def test_the_queue_is_shown_moved_planned_and_paused(db, jobs, row):
    ids = [row("queued", TrainConfig().to_json()).id for _ in range(3)]
    assert [run["id"] for run in answer(jobs("queue", "move", ids[2], 1, "--json"))] == [ids[2], ids[0], ids[1]]
    answer(jobs("queue", "plan", ids[0], "--at", "in 2 h", "--after", ids[1], "--priority", "high", "--json"))
    planned = get_run(db, ids[0])
    assert (planned.after_id, planned.priority) == (ids[1], HIGH) and planned.start_at > time.time() + 7000
    assert "queued, " in jobs("queue")[1]
    assert "The queue is paused" in jobs("queue", "pause")[1] and queue_paused(db)
    jobs("queue", "go")
    assert not queue_paused(db)
    answer(jobs("queue", "plan", ids[0], "--at", "now", "--after", 0, "--json"))
    assert (get_run(db, ids[0]).start_at, get_run(db, ids[0]).after_id) == (None, None)
    assert queued_runs(db)[0] == ids[0]


def test_a_sweep_is_queued_as_a_group(db, jobs):
    made = answer(jobs("start", "--sweep", "mc_samples = 1, 4", "--sweep", "seed = 0..1", "--name", "s", "--json"))
    assert len(made) == 4 and {run["sweep_id"] for run in made} == {1}
    assert len(answer(jobs("start", "--sweep", "learning_rate = 1e-5..1e-3 log", "--samples", 3, "--json"))) == 3


def test_a_run_goes_out_and_comes_in(db, jobs, row, data):
    run = row("finished", TrainConfig(seed=7).to_json())
    assert answer(jobs("export", run.id, data / "out.zip", "--json")) == {
        "id": run.id, "file": str(data / "out.zip")}
    again = answer(jobs("import", data / "out.zip", "--json"))[0]
    assert again["id"] != run.id and again["config"]["seed"] == 7
    assert jobs("export", 99)[0] == 3 and jobs("import", data / "nothing.zip")[0] == 2


def test_the_log_is_shown(jobs, row):
    run = row("finished")
    Path(run.folder, "log.txt").write_text("one\ntwo\nthree\n")
    assert jobs("log", run.id, "--lines", 2)[1] == "two\nthree\n"


def test_the_help_says_what_the_exit_codes_mean():
    done = subprocess.run([sys.executable, "-m", "bgpo.jobs", "--help"], cwd=ROOT, capture_output=True, text=True)
    text = " ".join(done.stdout.split())
    assert done.returncode == 0 and "3 there is no such run; 4 not possible" in text
    for name in ("list", "start", "stop", "pause", "resume", "fork", "queue", "rm", "log"):
        assert f" {name} " in text


@pytest.mark.slow
def test_here_a_run_computes_in_the_terminal_without_any_app(data, db):
    words = [f"{flag(name)}={value}" for name, value in json.loads(QUICK.with_values(
        train_steps=2, warmup_steps=20, eval_every=2).to_json()).items() if value not in ("", True, False)]
    command = [sys.executable, "-m", "bgpo.jobs", "start", "--here", "--json", "--database", db.url, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == get_run(db, 1).status == "finished"
