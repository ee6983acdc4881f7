"""What a training process tells a person: timestamped lines for the log, bars for a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

_TITLES = {
    "starting": "Starting", "downloading": "Downloading (MB)", "warming_up": "Warming up",
    "training": "Training", "evaluating": "Evaluating",
}
_QUIET = 10.0  # seconds between two lines about how far a phase is


class Narrator:
    """Says each line once: under a runner to stdout, which is the log; in a terminal to stderr and to the log file."""

    def __init__(self, log_file: Path | None, *, bars: bool = False):
        self._log: TextIO | None = None
        if log_file:
            self._log = open(log_file, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self._bars = bars
        self._bar = None
        self._phase = ""
        self._reward = ""
        self._spoke = time.monotonic()
        self._lock = threading.Lock()  # the reporter's thread speaks too

    def say(self, text: str) -> None:
        """One timestamped line (a traceback may have more)."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        with self._lock, contextlib.suppress(OSError):  # on a full disk a line is lost, and not the run
            if self._log:
                self._log.write(line + "\n")
                self._print(line)
            else:
                print(line, flush=True)

    def file_only(self, text: str) -> None:
        """Text for the log alone; a terminal is spared it."""
        with contextlib.suppress(OSError):
            if self._log:
                self._log.write(text)
            else:
                print(text, end="", flush=True)

    def phase(self, name: str, done: int, total: int) -> None:
        if name == "evaluating":  # comes between training steps; its result is what is worth a line
            return
        if name != self._phase:
            self._phase, self._spoke = name, time.monotonic()
            self.say(f"{_title(name)}" + ("" if name == "starting" else f": step {done} of {total}"))
        elif time.monotonic() - self._spoke > _QUIET and not self._bars:
            self._spoke = time.monotonic()
            self.say(f"{_title(name)}: step {done} of {total}{self._reward}")
        if self._bars and name != "starting":
            self._advance(name, done, total)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if "reward/mean" in values:
            self._reward = f", reward {values['reward/mean']:.2f}"
        if "finetune/validation_loss" in values:
            self.say(f"Step {step}: loss on examples kept back {values['finetune/validation_loss']:.4f}")
        if "reward/heldout_greedy" in values:
            sampled = values.get("reward/heldout_sampled")
            also = f", {sampled:.2f} at T = 1" if sampled is not None else ""
            self.say(f"Step {step}: held-out reward {values['reward/heldout_greedy']:.2f} greedy{also}{self._reward}")
        if scores := [f"{value:.3f} at {name.rpartition('/')[2]}" for name, value in values.items()
                      if name.startswith("eval/pass_1/")]:
            self.say(f"Step {step}: pass@1 {', '.join(scores)} tokens")

    def checkpoint(self, step: int, kind: str) -> None:
        if kind != "evaluation":  # there is one with every held-out line
            self.say(f"Step {step}: checkpoint saved ({kind.replace('_', ' ')})")

    def close(self) -> None:
        self._close_bar()
        if self._log:
            with contextlib.suppress(OSError):
                self._log.close()
            self._log = None

    def _print(self, line: str) -> None:
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)

    def _advance(self, name: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.desc.rstrip(": ") != _title(name):
            from tqdm import tqdm

            self._close_bar()
            self._bar = tqdm(total=total, initial=done, desc=_title(name), unit="step", dynamic_ncols=True)
        self._bar.set_postfix_str(self._reward.removeprefix(", "), refresh=False)
        self._bar.update(done - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _title(phase: str) -> str:
    return _TITLES.get(phase, phase.replace("_", " ").capitalize())
