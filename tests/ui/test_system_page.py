"""What the System page says, over a real database."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from bgpo.jobs.devices import Gpu
from storage.queue import lease_if_free
from storage.settings import cpu_slots, pause_queue
from tests.waiting import PATIENCE
from ui import system_page


def test_facts_name_the_data_the_machine_and_the_versions(services, new_run):
    services.runs_folder.mkdir(exist_ok=True)
    run = new_run("night run")
    facts = system_page.facts(services)
    rows = {name: words for section in facts["sections"] for name, words in section["rows"]}
    assert rows["Data folder"] == str(services.data_dir) and rows["Database"] == str(services.db.path)
    assert "free of" in rows["Disk"] and "cores usable" in rows["CPU"]
    assert rows[f"Run {run.id}"].startswith("night run: ") and "step 0 of 60" in rows[f"Run {run.id}"]
    assert rows["gradio"].startswith("6.") and rows["SQLite"][0] == "3"
    assert json.loads(json.dumps(facts)) is not None  # what goes to the page is plain data


def test_a_queue_that_a_full_disk_has_paused_says_so(services):
    assert system_page.queue_rows(services.db, []) == []
    pause_queue(services.db, True, "The disk is nearly full.")
    assert system_page.queue_rows(services.db, []) == [("Queue", "0 waiting, paused. The disk is nearly full.")]
    pause_queue(services.db, True)
    assert system_page.queue_rows(services.db, []) == [("Queue", "0 waiting, paused.")]


def test_a_password_in_the_url_is_not_shown(services):
    shown = str(system_page.snippets(replace(services, database_url="postgresql://me:hunter2@host/db")))
    assert "hunter2" not in shown


def test_snippet_reads_a_run(services, new_run):
    new_run()
    code = next(s["text"] for s in system_page.snippets(services) if "Python" in s["title"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(("size", "words"), [
    (0, "0 B"), (999, "999 B"), (1536, "1.5 kB"), (119_000, "119 kB"), (83.04e9, "83.0 GB"), (2.5e12, "2.5 TB"),
])
def test_sizes_are_in_the_unit_a_person_would_use(size, words):
    assert system_page.size_words(size) == words


GIB = 2**30


@pytest.mark.parametrize(("used", "processes", "run", "ours", "words"), [
    (1, (), None, (), "H200, 1.0 of 140 GiB used, 3 % busy"),
    (40, ((7, 40),), 12, (7,), "H200, 40.0 of 140 GiB used, 3 % busy, run 12 has it"),
    (41, ((7, 40), (8, 1)), 12, (7,),
     "H200, 41.0 of 140 GiB used, 3 % busy, run 12 has it; other processes hold 1.0 GiB"),
    (40, ((8, 40),), None, (),
     "H200, 40.0 of 140 GiB used, 3 % busy; other processes hold 40.0 GiB, so no run is put there"),
    (40, (), None, (),
     "H200, 40.0 of 140 GiB used, 3 % busy; other processes hold 40.0 GiB, so no run is put there"),
])
def test_a_gpu_in_words(used, processes, run, ours, words):
    named = tuple((pid, held * GIB) for pid, held in processes)
    gpu = Gpu("GPU-1", "H200", 140 * GIB, used * GIB, 3, named)
    assert system_page.gpu_words(gpu, run, ours) == words


def test_the_page_shows_who_has_which_device(services, new_run, monkeypatch):
    services.runs_folder.mkdir(exist_ok=True)
    gpu = Gpu("GPU-1", "H200", 140 * GIB, GIB)
    monkeypatch.setattr(system_page, "nvidia_gpus", lambda: [gpu])
    run = new_run()
    lease_if_free(services.db, run, ["GPU-1"])
    rows = {name: words for section in system_page.facts(services)["sections"] for name, words in section["rows"]}
    assert rows["GPU 0"].endswith(f"run {run.id} has it") and rows["CPU slots"] == "1, none taken"


def test_slots_are_set_on_the_page(services):
    services.runs_folder.mkdir(exist_ok=True)
    assert system_page.set_slots(services, 3)[0] == "" and cpu_slots(services.db) == 3
    for wrong in (0, None, -1, float("inf")):
        assert system_page.set_slots(services, wrong)[0]
    assert cpu_slots(services.db) == 3
