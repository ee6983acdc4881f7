"""The System page: where the data is, what there is to compute with, what runs now, and which versions do it."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import gradio as gr
import psutil

from bgpo.config import TrainConfig
from bgpo.jobs.command import command_line, holds_password
from bgpo.jobs.devices import Gpu, is_cpu, nvidia_gpus
from bgpo.jobs.retention import least_free
from bgpo.tasks.sandbox import find_sandbox
from storage.database import Database
from storage.queue import Lease, leases
from storage.runs import LIVE, Run, list_runs
from storage.settings import cpu_slots, queue_state, set_cpu_slots
from ui.components.module import module
from ui.run_words import status_word
from ui.services import Services
from ui.tabs import PLAIN, on_open

_PACKAGES = ("torch", "transformers", "gradio", "plotly", "sqlalchemy", "apscheduler", "alembic")
GIB = 2**30

Rows = list[tuple[str, str]]


def build(services: Services) -> None:
    """Builds the page inside the current Blocks."""
    page = module("system_facts")
    again = gr.Button("Look again", size="sm", elem_id="system-again")
    again.click(lambda: facts(services), None, page, **PLAIN)
    with gr.Row(elem_id="system-slots", elem_classes="bgpo-form"):
        slots = gr.Number(
            1, label="Runs at once on the CPU", precision=0, elem_id="system-cpu-slots",
            info="How many share this machine's processor; more make each of them slower. GPUs take one run each.",
        )
        said = gr.Markdown("", elem_id="system-slots-said")
    # not a callable value: Gradio would ask for it whenever any page is opened, over a connection that stays
    on_open(lambda _: (facts(services), cpu_slots(services.db)), [page, slots])
    slots.submit(lambda number: set_slots(services, number), slots, [said, page], **PLAIN)
    slots.blur(lambda number: set_slots(services, number), slots, [said, page], **PLAIN)


def set_slots(services: Services, number: float | None) -> tuple[str, dict[str, Any]]:
    """Keeps the number of CPU slots; the sentence to show, and the facts with it."""
    try:
        set_cpu_slots(services.db, int(number or 0))
        said = ""
    except (ValueError, OverflowError) as error:
        said = str(error)
    return said, facts(services)


def facts(services: Services) -> dict[str, Any]:
    """Everything that the page shows: sections of (label, value) rows, and snippets to copy."""
    runs = list_runs(services.db)
    return {
        "sections": [
            {"title": "Data", "rows": data_rows(services)},
            {"title": "Machine", "rows": machine_rows(services.db, runs)},
            {"title": "Working now", "rows": worker_rows(runs, time.time()) + queue_rows(services.db, runs)},
            {"title": "Versions", "rows": version_rows(services.db)},
        ],
        "snippets": snippets(services),
    }


def and_words(words: list[str]) -> str:
    """`["1", "2", "3"]` -> "1, 2 and 3"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def data_rows(services: Services) -> Rows:
    usage = shutil.disk_usage(services.data_dir)
    rows = [("Data folder", str(services.data_dir))]
    rows.append(("Database", services.db.name))
    if services.db.path:
        rows.append(("Database size", size_words(_size(services.db.path))))
    if services.db.warning:
        rows.append(("Slower journal", services.db.warning))
    kept = f"runs are paused below {size_words(least_free(services.db))}"
    return [*rows, ("Disk", f"{size_words(usage.free)} free of {size_words(usage.total)}; {kept}")]


def machine_rows(db: Database, runs: list[Run]) -> Rows:
    memory, held, slots = psutil.virtual_memory(), leases(db), cpu_slots(db)
    rows = gpu_rows(nvidia_gpus(), held, runs) or [("GPU", "none found; runs use the CPU")]
    busy = [str(lease.run_id) for lease in held if is_cpu(lease.device)]
    return [
        *rows,
        ("CPU slots", f"{slots}, {f'taken by run {and_words(busy)}' if busy else 'none taken'}"),
        ("CPU", f"{usable_cores()} cores usable, {psutil.cpu_percent(interval=0.1):.0f} % busy"),
        ("Memory", f"{size_words(memory.available)} free of {size_words(memory.total)}"),
        ("Sandbox for code", find_sandbox().words),
        ("System", f"{platform.system()} {platform.release()}, {platform.machine()}"),
    ]


def usable_cores() -> int:
    """Cores that this process may use; a container often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_rows(gpus: list[Gpu], held: list[Lease], runs: list[Run]) -> Rows:
    """One row per card: its memory, which run has it, and what other people's processes hold."""
    taken = {lease.device: lease.run_id for lease in held}
    ours = {run.id: _processes_of(run) for run in runs if run.id in taken.values()}
    return [
        (f"GPU {index}", gpu_words(gpu, taken.get(gpu.uuid), ours.get(taken.get(gpu.uuid), {os.getpid()})))
        for index, gpu in enumerate(gpus)
    ]


def gpu_words(gpu: Gpu, run_id: int | None, ours: Collection[int]) -> str:
    """Args: run_id: who has leased the card; ours: pids whose memory is no stranger's."""
    words = f"{gpu.name}, {gpu.used / GIB:.1f} of {gpu.total / GIB:.0f} GiB used"
    if gpu.busy is not None:
        words += f", {gpu.busy} % busy"
    words += f", run {run_id} has it" if run_id is not None else ""
    foreign = gpu.foreign(ours)
    if run_id is None and gpu.avoided(ours):
        return f"{words}; other processes hold {foreign / GIB:.1f} GiB, so no run is put there"
    if gpu.processes and foreign:
        return f"{words}; other processes hold {foreign / GIB:.1f} GiB"
    return words


def _processes_of(run: Run) -> set[int]:
    try:
        root = psutil.Process(run.pid or 0)
        return {root.pid, *(child.pid for child in root.children(recursive=True))}
    except psutil.Error:
        return set()


def worker_rows(runs: list[Run], now: float) -> Rows:
    working = [run for run in runs if run.status in LIVE]
    return [(f"Run {run.id}", _worker_words(run, now)) for run in working] or [("Runs", "nothing is running")]


def queue_rows(db: Database, runs: list[Run]) -> Rows:
    """What waits, and why nothing of it is started where that is so; nothing for an empty queue that goes on."""
    queued, state = sum(run.status == "queued" for run in runs), queue_state(db)
    if state["paused"]:
        return [("Queue", f"{queued} waiting, paused. {state['why']}".rstrip())]
    return [("Queue", f"{queued} waiting")] if queued else []


def _worker_words(run: Run, now: float) -> str:
    beat = f", last heard of {max(0, now - run.heartbeat_at):.0f} s ago" if run.heartbeat_at else ""
    process = f", process {run.pid}, {_resident(run.pid)}" if run.pid else ""
    return f"{run.name}: {status_word(run).lower()}, step {run.step} of {run.train_steps}{process}{beat}"


def _resident(pid: int) -> str:
    try:
        return size_words(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return "gone"


def version_rows(db: Database) -> Rows:
    rows = [("Python", platform.python_version()), ("SQLite", sqlite_words(db))]
    for name in _PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows


def sqlite_words(db: Database) -> str:
    """Version of the SQLite library in use, or the name of the other database."""
    dialect = db.engine.dialect
    if dialect.name != "sqlite":
        return f"not used; this is {dialect.name}"
    module_ = dialect.loaded_dbapi
    return f"{module_.sqlite_version} ({module_.__name__.split('.')[0]})"


def snippets(services: Services) -> list[dict[str, str]]:
    url = services.database_url
    shown = "sqlite:///runs.db" if holds_password(url) else url
    return [
        {"title": "Train without a browser", "text": command_line(TrainConfig(), url)},
        {"title": "All flags", "text": "python -m bgpo.jobs.worker --help"},
        {"title": "Runs as JSON", "text": "curl -s {origin}/api/live"},  # the page knows where it is
        {"title": "Read a run in Python", "text": _PYTHON.format(url=shown)},
    ]


_PYTHON = """\
from storage.database import open_database
from storage.metrics import points_after
from storage.runs import list_runs

db = open_database({url!r})
run = list_runs(db)[0]
points, cursor = points_after(db, run.id, 0)
print([(p.step, p.value) for p in points if p.metric == "reward/heldout_greedy"])"""


def size_words(size: float) -> str:
    """Bytes in the unit that a person would use: 1536 -> "1.5 kB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _size(file: Path) -> int:
    """Bytes of a database with its write-ahead log."""
    parts = (file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm"))
    return sum(part.stat().st_size for part in parts if part.is_file())
