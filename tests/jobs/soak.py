"""Random faults on real runs, from a seed, for as long as one likes. After each of them everything has to be right.

    python -m tests.jobs.soak --seed 3 --seconds 600

An app's clockwork, runners and workers are real processes; the workers are `tiny_worker`'s. Which faults come, and in
what order, follows from the seed; what they meet follows from the machine's timing, too. Each is printed as it happens.
Where bubblewrap can mount one, all of it is on a disk of a few megabytes, which is filled now and then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from sqlalchemy import update

from bgpo.config import TrainConfig
from bgpo.jobs import control, launcher, runner
from bgpo.jobs.retention import LEAST_FREE_GB
from bgpo.jobs.scheduler import Scheduler
from bgpo.jobs.settling import marked_processes
from storage import queue
from storage.database import Database, open_database, sqlite_url
from storage.metrics import points_after
from storage.queue import leases
from storage.runs import LIVE, Run, get_run, list_runs, run_events
from storage.settings import pause_queue, queue_paused, set_cpu_slots, set_setting
from storage.tables import run as table

from .conftest import QUICK, ROOT
from .tiny_worker import figure

SLOTS, RUNS = 2, 5  # at once; unfinished ones that there always are
PATIENCE = 120.0  # seconds until everything must be right again; a launch that failed is noticed after 60
DISK_MB = 48
ALLOWED = {  # changes of status that there may be
    "": {"queued"}, "queued": {"launching", "stopped", "paused"},
    "launching": {"running", "failed", "queued", "stopped", "paused"},
    "running": {"finished", "stopped", "paused", "failed", "queued"}, "paused": {"queued", "stopped"},
    "stopped": {"queued"}, "failed": {"queued"}, "finished": set(),
}


class Broken(AssertionError):
    """Something is not as it has to be."""


class Soak:
    """One database with runs on it, and what is done to them."""

    def __init__(self, folder: Path, seed: int, small_disk: bool):
        self.chance = random.Random(seed)
        self.folder, self.small_disk = folder, small_disk
        self.db = open_database(sqlite_url(folder / "bgpo.db"))
        set_cpu_slots(self.db, SLOTS)
        set_setting(self.db, LEAST_FREE_GB, "0")  # a disk that is nearly full is to become full
        self.apps: list[subprocess.Popen] = []
        self.behind = 0.0  # seconds by which the clock of some app may be
        self.shown: dict[int, dict[tuple[str, int], float | None]] = defaultdict(dict)
        self.may_fail: dict[int, set[str]] = defaultdict(set)  # kinds of failure that a run has met the cause of
        self.may_stop: set[int] = set()  # runs that were asked to, or whose process got a SIGTERM
        self.stranger = subprocess.Popen(["sleep", "86400"])

    # ---- what there is

    def app(self, clock: float = 0.0) -> None:
        if not self.apps:
            self.behind = -clock
        words = [sys.executable, "-m", "tests.jobs.soak", "--app", self.db.url, "--clock", str(clock)]
        self.apps.append(subprocess.Popen(words, cwd=ROOT, start_new_session=True))

    def supply(self) -> None:
        """As many runs on their way as there are to be: old ones that go on, and new ones."""
        runs = list_runs(self.db)
        for _ in range(RUNS - sum(run.status in ("queued", *LIVE) for run in runs)):
            if (ended := self.one(*control.RESUMABLE)) and self.chance.random() < 0.6:
                with contextlib.suppress(control.ControlError):
                    control.resume(self.db, ended.id)
                continue
            config = QUICK.with_values(seed=self.chance.randrange(1, 1000), train_steps=self.chance.randrange(100, 600),
                                       retries=self.chance.choice((0, 0, 2)))  # fmt: skip
            control.submit(self.db, config, self.folder / "runs", priority=self.chance.choice((-1, 0, 0, 1)))

    def one(self, *statuses: str) -> Run | None:
        found = [run for run in list_runs(self.db) if run.status in statuses]
        return self.chance.choice(found) if found else None

    # ---- faults

    def kill_app(self) -> None:
        for app in self.apps:
            app.kill()
            app.wait()
        self.apps.clear()
        time.sleep(self.chance.choice((0, 0, 1, 3)))
        self.app()

    def two_apps(self) -> None:
        if len(self.apps) < 3:
            self.app()

    def close_an_app(self) -> None:
        self.app()
        self.apps.pop(0).terminate()

    def freeze_app(self) -> None:
        app = psutil.Process(self.apps[0].pid)
        with self.db.write():  # not in the middle of a transaction, which is a fault that has no cure but to kill it
            app.suspend()
        time.sleep(self.chance.choice((1, 4)))
        app.resume()

    def clock_set_back(self) -> None:
        for app in self.apps:
            app.kill()
            app.wait()
        self.apps.clear()
        self.app(clock=-3600.0)

    def kill_worker(self) -> None:
        self._signal("worker", signal.SIGKILL, "killed")

    def kill_runner(self) -> None:
        self._signal("runner", signal.SIGKILL, "lost", "killed")

    def kill_both(self) -> None:
        self._signal("both", signal.SIGKILL, "lost", "killed")

    def terminate_worker(self) -> None:
        self._signal("worker", signal.SIGTERM, "killed")

    def kill_at_once_with_the_app(self) -> None:
        self._signal("both", signal.SIGKILL, "lost", "killed")
        self.kill_app()

    def freeze_worker(self) -> None:
        if (run := self.one("running")) and (worker := self._worker(run)):
            with self.db.write(), contextlib.suppress(psutil.Error):
                worker.suspend()
            if self.chance.random() < 0.5:
                self._press(run, self.chance.choice((control.stop, control.pause)))
            time.sleep(self.chance.choice((1, 5)))
            with contextlib.suppress(psutil.Error):
                worker.resume()

    def reboot(self) -> None:
        """Everything is gone at once, the boot is another one, and a stranger has the pid of each worker."""
        for app in self.apps:
            app.kill()
            app.wait()
        self.apps.clear()
        runs = list_runs(self.db)
        for act in (psutil.Process.suspend, psutil.Process.kill):  # or some hear of the end of others
            for process in [process for run in runs for process in marked_processes(run)]:
                with contextlib.suppress(psutil.Error):
                    act(process)
        for run in list_runs(self.db):
            if run.status in LIVE:
                self.may_fail[run.id] |= {"lost", "launch_timeout"}
                with self.db.write() as connection:
                    words = update(table).where(table.c.id == run.id, table.c.status.in_(LIVE))
                    connection.execute(words.values(boot_id="an earlier one", pid=self.stranger.pid))
        self.app()

    def lock_database(self) -> None:
        with self.db.write():
            time.sleep(self.chance.choice((0.5, 2, 2, 5)))

    def fill_disk(self) -> None:
        if not self.small_disk:
            return
        for run in list_runs(self.db):
            self.may_fail[run.id] |= {"disk_full", "launch_timeout", "exception", "lost"}
        filler = self.folder / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        time.sleep(self.chance.choice((0.5, 2, 4)))
        filler.unlink()

    def press(self) -> None:
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            run = self.chance.choice(list_runs(self.db))
            self._press(run, self.chance.choice((control.stop, control.stop, control.pause, control.kill,
                                                 control.resume, control.resume, control.delete)))  # fmt: skip

    def change_the_queue(self) -> None:
        pause_queue(self.db, self.chance.random() < 0.2)
        for run in [run for run in list_runs(self.db) if run.status == "queued"]:
            if self.chance.random() < 0.5:
                queue.move(self.db, run.id, self.chance.randrange(1, 6))
            else:
                queue.plan(self.db, run.id, priority=self.chance.choice((-1, 0, 1)))

    def nothing(self) -> None:
        time.sleep(self.chance.random())

    def _press(self, run: Run, button: Callable) -> None:
        print(f"    {button.__name__} run {run.id} ({run.status})", flush=True)
        if button in (control.stop, control.pause, control.kill):
            self.may_stop.add(run.id)
        try:
            button(self.db, run.id)
        except control.ControlError as error:
            print(f"    refused: {error}", flush=True)
            return
        if button is control.delete:
            self.shown.pop(run.id, None)
            if Path(run.folder).exists() or run.id in [other.id for other in list_runs(self.db)]:
                raise Broken(f"run {run.id} is deleted and still there")

    def _worker(self, run: Run) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(get_run(self.db, run.id).pid)
        return None

    def _signal(self, whom: str, number: int, *kinds: str) -> None:
        run = self.one("running")
        if run is None:
            return
        self.may_fail[run.id] |= {*kinds}
        self.may_stop.add(run.id)  # a runner's death is a SIGTERM to its worker
        holder = runner.lock_holder(Path(run.folder))
        pids = {"worker": [run.pid], "runner": [holder and holder.pid],
                "both": [holder and holder.pid, run.pid]}[whom]  # fmt: skip
        print(f"    {whom} of run {run.id}, {number!r}", flush=True)
        alive = [psutil.Process(pid) for pid in pids if pid and psutil.pid_exists(pid)]
        ours = [process for process in alive if process in marked_processes(run)]
        for process in ours if whom == "both" else ():
            with contextlib.suppress(psutil.Error):
                process.suspend()  # or the second hears of the first
        for process in ours:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    # ---- what has to be right

    def wrong(self) -> str:
        """What is not right at this moment, in words; nothing if all is."""
        runs, held = list_runs(self.db), leases(self.db)
        by_id = {run.id: run for run in runs}
        for run in runs:
            state = runner.lock_state(Path(run.folder))
            if run.status == "running" and state != "held":
                return f"run {run.id} is running and nobody holds its lock"
            if run.status == "launching":
                return f"run {run.id} is launching"
            if run.status not in LIVE and (left := marked_processes(run)):
                return f"run {run.id} is {run.status} and has processes: {left}"
        if idle := [lease for lease in held if by_id.get(lease.run_id) is None or
                    by_id[lease.run_id].status not in LIVE]:  # fmt: skip
            return f"leases of runs that do not run: {idle}"
        if len(held) > SLOTS:
            return f"{len(held)} devices are taken of {SLOTS}"
        waiting = [run for run in runs if run.status == "queued"
                   and (run.start_at or 0) < time.time() - self.behind - 5]  # fmt: skip
        if waiting and len(held) < SLOTS and not queue_paused(self.db):
            return f"a device is free and run {waiting[0].id} waits"
        return ""

    def calm_down(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while said := self.wrong():
            if time.monotonic() > deadline:
                raise Broken(f"after {PATIENCE:.0f} s {said}")
            time.sleep(0.1)

    def check(self) -> None:
        """What holds at every moment."""
        if self.stranger.poll() is not None:
            raise Broken("a stranger's process was signalled")
        with self.db.read() as connection:
            if (said := connection.exec_driver_sql("PRAGMA quick_check").scalar()) != "ok":
                raise Broken(f"the database is damaged: {said}")
        for run in list_runs(self.db):
            self._check_history(run)
            self._check_points(run)
            self._check_reason(get_run(self.db, run.id))

    def _check_history(self, run: Run) -> None:
        before = ""
        for event in run_events(self.db, run.id):
            if event.from_status != before or (event.to_status != before and event.to_status not in ALLOWED[before]):
                raise Broken(f"run {run.id} went from {before!r}, or {event.from_status!r}, to {event.to_status!r}")
            before = event.to_status

    def _check_points(self, run: Run) -> None:
        seed = TrainConfig.from_json(run.config_json).seed
        now = {(p.metric, p.step): p.value for p in points_after(self.db, run.id, 0, 10**6)[0]}
        if lost := self.shown[run.id].keys() - now.keys():
            raise Broken(f"run {run.id} has lost what it had shown: {sorted(lost)[:5]}")
        self.shown[run.id] = now
        for (metric, step), value in now.items():
            if value != (figure(seed, step) if metric == "reward/mean" else 1 / step):
                raise Broken(f"{metric} of run {run.id} is {value} at step {step}")
        if get_run(self.db, run.id).status in LIVE or Path(run.folder, "spool.jsonl").exists():
            return
        steps = sorted(step for metric, step in now if metric == "lr")
        if missing := sorted({*range(1, max([run.step, *steps]) + 1)} - {*steps}):
            raise Broken(f"run {run.id}, {run.status}, is at step {run.step} and has no step {missing[:9]}")

    def _check_reason(self, run: Run) -> None:
        met = self.may_fail[run.id]
        if run.status == "failed" and (run.failure_kind not in met or not run.reason):
            raise Broken(f"run {run.id} has failed, {run.failure_kind!r}, and met only {met}: {run.reason}")
        if run.status in ("stopped", "paused") and (run.id not in self.may_stop or not run.reason):
            raise Broken(f"run {run.id} is {run.status} and nobody asked: {run.reason!r}")
        if run.status == "finished" and (run.reason or run.failure_kind or run.step != run.train_steps):
            raise Broken(f"run {run.id} has finished at step {run.step} of {run.train_steps}: {run.reason!r}")

    # ---- all of it

    FAULTS = (kill_app, two_apps, close_an_app, freeze_app, clock_set_back, kill_worker, kill_worker, kill_runner,
              kill_both, terminate_worker, kill_at_once_with_the_app, freeze_worker, reboot, lock_database, fill_disk,
              press, press, press, change_the_queue, nothing)  # fmt: skip

    def go(self, seconds: float) -> int:
        """Faults for so long, then everything is brought to its end; how many there were."""
        self.app()
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            self.supply()
            time.sleep(self.chance.random() * 2)
            fault = self.chance.choice(self.FAULTS)
            print(f"{count}: {fault.__name__}", flush=True)
            fault(self)
            count += 1
            if self.chance.random() < 0.6:  # else the next one comes on top
                self.calm_down()
            self.check()
        self.finish()
        return count

    def finish(self) -> None:
        """Everything goes on and comes to its end, as if nothing had happened."""
        pause_queue(self.db, False)
        self.kill_app()  # the next one's clock is right
        deadline = time.monotonic() + 3 * PATIENCE
        while unfinished := [run for run in list_runs(self.db) if run.status != "finished"]:
            if time.monotonic() > deadline:
                raise Broken(f"these do not come to their end: {[(run.id, run.status) for run in unfinished]}")
            for run in unfinished:
                if run.status in control.RESUMABLE:
                    with contextlib.suppress(control.ControlError):
                        control.resume(self.db, run.id)
            time.sleep(0.3)
        self.calm_down()
        self.check()
        for run in list_runs(self.db):
            if [step for metric, step in sorted(self.shown[run.id]) if metric == "lr"] != [
                    *range(1, run.train_steps + 1)]:  # fmt: skip
                raise Broken(f"run {run.id} has not all of its steps")
        if leases(self.db):
            raise Broken(f"devices are still taken: {leases(self.db)}")

    def close(self) -> None:
        for run in list_runs(self.db):
            for process in marked_processes(run):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        for process in (*self.apps, self.stranger):
            process.kill()
            process.wait()
        self.db.close()


def clockwork(url: str, clock: float) -> None:
    """What of an app the runs need, until SIGTERM; with a wall clock that is so many seconds ahead."""
    launcher.worker_command = lambda db, run_id: [
        sys.executable, "-m", "tests.jobs.tiny_worker", str(run_id), "--database", db.url,
    ]
    if clock:
        real = time.time
        time.time = lambda: real() + clock
    scheduler = Scheduler(Database(url), grace=5.0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    scheduler.start()
    try:
        while True:
            time.sleep(3600)
    finally:
        scheduler.shutdown()


@contextlib.contextmanager
def own_folder(given: Path | None) -> Iterator[Path]:
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def on_a_small_disk(arguments: list[str], folder: Path) -> list[str] | None:
    """The command that does the same with a disk of its own mounted at `folder`; None where that cannot be."""
    if shutil.which("bwrap") is None:
        return None
    mount = ["--dev-bind", "/", "/", "--size", str(DISK_MB * 2**20), "--tmpfs", str(folder), "--die-with-parent"]
    if subprocess.run(["bwrap", *mount, "true"], check=False, capture_output=True).returncode:
        return None
    return ["bwrap", *mount, sys.executable, "-m", "tests.jobs.soak", *arguments, "--small-disk"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="what to work in, and to leave as it is in the end")
    parser.add_argument("--small-disk", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--app", help=argparse.SUPPRESS)
    parser.add_argument("--clock", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.app:
        clockwork(options.app, options.clock)
        return 0
    with own_folder(options.folder) as folder:
        again = [*arguments, *([] if options.folder else ["--folder", str(folder)])]
        if not options.small_disk and (command := on_a_small_disk(again, folder)):
            return subprocess.run(command, check=False, cwd=ROOT, env=os.environ).returncode
        soak = Soak(folder, options.seed, options.small_disk)
        try:
            print(f"{soak.go(options.seconds)} faults from seed {options.seed}; everything is right", flush=True)
        except BaseException:
            for run in list_runs(soak.db):
                print(run.id, run.status, run.step, run.reason, run.failure_kind, run.requested, flush=True)
            raise
        finally:
            soak.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
