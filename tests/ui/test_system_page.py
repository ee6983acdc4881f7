"""What the System page says, over a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

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


@pytest.mark.parametrize(("line", "words"), [
    ("NVIDIA H200, 1024, 143771, 3", "NVIDIA H200, 1.0 of 140 GiB used, 3 % busy"),
    ("GRID, [N/A], [N/A], [N/A]", "GRID"),
])
def test_a_gpu_in_words(line, words):
    assert system_page.gpu_words(line) == words


def test_gpus_come_from_nvidia_smi_and_none_without_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system_page.nvidia_gpus() == []
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 2048, 143771, 50'\n")
    smi.chmod(0o755)
    monkeypatch.setattr(system_page, "_SMI_SECONDS", PATIENCE)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert system_page.nvidia_gpus() == ["NVIDIA H200, 2.0 of 140 GiB used, 50 % busy"]
