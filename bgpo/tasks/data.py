"""Rows of a data set: published ones from the hub, one's own from a hub id, a file or a folder, all by `datasets`.

Rows come as plain dicts in tables named `train`, `validation` and `test`. `datasets` is imported when rows are
asked for, so that listing tasks stays instant.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpo.tasks.base import TaskError

Row = dict[str, Any]
Tables = dict[str, list[Row]]

TABLES = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_SUFFIXES = ", ".join(_READERS)


@dataclass(frozen=True)
class HubTable:
    """One table of a published data set: hub id, its configuration (empty: the only one), its split there."""

    hub: str
    config: str
    split: str

    def __str__(self) -> str:
        return f"{self.hub}:{self.config}" if self.config else self.hub


def published_tables(task: str, published: Mapping[str, HubTable]) -> Tables:
    """The tables of a task as published. Raises TaskError when the hub does not give them."""
    return {
        name: _from_hub(task, table.hub, table.config, table.split)[table.split] for name, table in published.items()
    }


def given_tables(task: str, data: str) -> Tables:
    """The tables that knob `data` names: a hub id (`owner/name` or `owner/name:config`), a file, or a folder of files.

    A file, like a data set without test rows, is one table `train`; its held-out problems are split off later.

    Raises:
        TaskError: when there is nothing to read, or it cannot be read.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return {"train": _from_file(task, path)}
    if path.is_dir():
        return _from_folder(task, path)
    if path.suffix in _READERS or data.startswith(("/", "~", ".")) or data.count("/") != 1:
        raise TaskError(
            f"data = {data[:200]} is no file or folder here; give a {_SUFFIXES} file, a folder that holds train and "
            "test files, or a hub id such as owner/name."
        )
    hub, _, config = data.partition(":")
    found = _from_hub(task, hub, config, None)
    tables = {TABLES[split]: rows for split, rows in found.items() if split in TABLES}
    return tables or {"train": [row for rows in found.values() for row in rows]}


def _from_folder(task: str, folder: Path) -> Tables:
    files = {
        table: file for stem, table in TABLES.items() for file in sorted(folder.glob(f"{stem}.*"))
        if file.suffix in _READERS
    }
    if not files:
        raise TaskError(
            f"data = {folder} holds no file named train or test with the ending {_SUFFIXES}; rename the files, or give "
            "one of them."
        )
    return {table: _from_file(task, file) for table, file in files.items()}


def _from_file(task: str, file: Path) -> list[Row]:
    import datasets

    if file.suffix not in _READERS:
        raise TaskError(f"data = {file} ends in none of {_SUFFIXES}; convert the file, or rename it.")
    datasets.disable_progress_bars()
    try:
        options = _csv_options(file) if file.suffix == ".csv" else {}
        with tempfile.TemporaryDirectory() as cache:
            return list(datasets.load_dataset(
                _READERS[file.suffix], data_files=str(file), split="train", cache_dir=cache, **options
            ))
    except Exception as error:  # whatever a file can hold; every reader has errors of its own
        cause = error.__cause__ or error
        raise TaskError(
            f"data = {file} cannot be read as {file.suffix[1:]} for task {task}: {_short(cause)}. Mend the file; each "
            "row needs the same columns, with values of one type."
        ) from error
    finally:
        datasets.enable_progress_bars()


def _csv_options(file: Path) -> dict[str, Any]:
    """Every column as text: digits with leading zeros, such as puzzles, are no numbers."""
    from datasets import Features, Value

    with file.open(newline="", encoding="utf-8") as lines:
        header = next(csv.reader(lines), [])
    return {"features": Features({column: Value("string") for column in header}), "keep_default_na": False}


def _from_hub(task: str, hub: str, config: str, split: str | None) -> Tables:
    import datasets

    try:
        found = datasets.load_dataset(hub, config or None, split=split)
    except Exception as error:  # the hub's own errors, the network's, and those of files in it
        raise TaskError(
            f"Task {task} reads {hub} from the hub, which did not give it ({_short(error)}). Check the name and the "
            "connection, or download the data and give the file or folder as data (jsonl, json, parquet or csv)."
        ) from error
    return {name: list(rows) for name, rows in ({split: found} if split else found).items()}


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def text_of(row: Row, *columns: str) -> str:
    """The first of `columns` that the row has, as text.

    Raises:
        TaskError: when it has none of them.
    """
    for column in columns:
        if row.get(column) is not None:
            return str(row[column])
    raise TaskError(
        f"A row has the columns {', '.join(map(str, row))[:200]}; it needs {' or '.join(columns)}. Rename the column."
    )
