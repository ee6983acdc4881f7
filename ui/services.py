"""What every page is given: the database, the folders, the scheduler and the chat. Built once in `app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgpo.jobs.chat import Chat
    from bgpo.jobs.scheduler import Scheduler
    from storage.database import Database


@dataclass(frozen=True)
class Services:
    """Attributes:
    db: the open database.
    data_dir: the folder that holds everything.
    runs_folder: where each run has its own folder, named by its id.
    database_url: as given to workers; may hold a password, so it is never shown as it is.
    chat: holds at most one loaded checkpoint; loads torch when the first answer is asked for.
    scheduler: turns queued runs into processes.
    """

    db: Database
    data_dir: Path
    runs_folder: Path
    database_url: str
    chat: Chat
    scheduler: Scheduler
