"""The app with one addition: it notes when each step of an answer was made, and makes at most 20 of them a second.

    python -m benchmarks.page_bars.noted_app --data-dir FOLDER --port 0        times go to FOLDER/steps.jsonl

A small model on a CPU takes milliseconds for a step; a large one on a GPU about fifty, which is the pace kept here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import app as studio
from bgpo.jobs.chat import Chat

FRAMES_PER_SECOND = 20


class NotedChat(Chat):
    """Chat, step by step in a file."""

    def __init__(self, log: Path):
        super().__init__()
        self._log = log

    def answer(self, *given: Any, **more: Any) -> Iterator[dict[str, Any]]:
        due = 0.0
        with self._log.open("a", buffering=1) as log:
            for event in super().answer(*given, **more):
                if event["kind"] == "step":
                    time.sleep(max(0.0, due - time.monotonic()))
                    due = time.monotonic() + 1 / FRAMES_PER_SECOND
                    log.write(json.dumps([event["step"], time.time()]) + "\n")
                yield event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    services = studio.open_data(options.data_dir, None)
    services = replace(services, chat=NotedChat(services.data_dir / "steps.jsonl"))
    bound = studio.listen("127.0.0.1", options.port)
    studio.serve(studio.build(services, studio.hosts_of("127.0.0.1"), None), bound, services.data_dir)


if __name__ == "__main__":
    main()
