"""Prompts and answers to fine-tune on, from a JSONL file or a data set by its hub id. Torch-free."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpo.config import TrainConfig

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_HOME = Path(__file__).parents[2]  # files that come with the app are named from here
_LONGEST_LINE = 4 * 2**20  # bytes
_LOOKED_AT = 200  # lines that a form reads


class ExamplesError(ValueError):
    """What is wrong with the examples, in one sentence."""


@dataclass(frozen=True)
class Example:
    """One demonstration. `where` says where it stands, such as "line 12"."""

    prompt: str
    answer: str
    where: str


def read_examples(config: TrainConfig) -> list[Example]:
    """All examples that `config` names, in their order.

    Raises:
        ExamplesError: for a file that is missing or a row that is no example, with its line.
    """
    path = local_file(config.examples)
    rows = _file_rows(path) if path else _hub_rows(config.examples)
    found = [_example(row, where, config) for where, row in rows]
    if len(found) < 2:
        raise ExamplesError(f"examples = {config.examples} has {len(found)} rows; give 2 or more.")
    return found


def examples_problems(config: TrainConfig) -> dict[str, str]:
    """What a form can say beforehand: whether a local file is there, and its first rows are examples."""
    if config.job != "finetune":
        return {}
    try:
        path = local_file(config.examples)
        for number, (where, row) in enumerate(_file_rows(path) if path else ()):
            if number == _LOOKED_AT:
                break
            _example(row, where, config)
    except ExamplesError as error:
        return {"examples": str(error)}
    return {}


def local_file(name: str) -> Path | None:
    """The file that `examples` names, or None for a hub id. Raises ExamplesError when it can be neither."""
    for path in (Path(name).expanduser(), _HOME / name):
        if path.is_file():
            return path
    if not _HUB_ID.fullmatch(name) or Path(name).suffix in (".jsonl", ".json"):
        raise ExamplesError(
            f"examples = {name[:80]} is no file here; give the path of a JSONL file, or a hub id such as owner/name."
        )
    return None


def fingerprint(examples: Iterable[Example]) -> str:
    """Changes with any prompt or answer."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.prompt, example.answer]).encode())
    return digest.hexdigest()


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise ExamplesError(f"{path.name}, line {number}: longer than 4 MB; is this a JSONL file?")
                if line.strip():
                    yield f"line {number}", _row(line, path, number)
    except OSError as error:
        raise ExamplesError(f"examples = {path} cannot be read ({error.strerror}).") from error


def _row(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        why = str(error)[:120] or type(error).__name__
        raise ExamplesError(
            f"{path.name}, line {number}: not JSON ({why}); write one object per line, such as "
            '{"prompt": "37+48", "answer": "085"}.'
        ) from None


def _hub_rows(name: str) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # its own kinds, the hub's, the network's, the file formats'
        why = " ".join(str(error).split())[:200]
        raise ExamplesError(
            f"examples = {name} could not be read from the hub ({type(error).__name__}: {why}). Check the name and the "
            "connection, or give the path of a JSONL file."
        ) from error
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _example(row: Any, where: str, config: TrainConfig) -> Example:
    texts = []
    for knob in ("prompt_column", "answer_column"):
        column = getattr(config, knob)
        if not isinstance(row, dict) or column not in row:
            there = ", ".join(map(str, row))[:200] if isinstance(row, dict) else f"a {type(row).__name__}"
            raise ExamplesError(
                f"examples, {where}: no column {column!r} (it has {there or 'nothing'}); name the right one in {knob}."
            )
        value = row[column]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ExamplesError(f"examples, {where}: {column} is no text but {json.dumps(value, default=str)[:60]}.")
        texts.append(str(value))
    if not texts[0].strip():
        raise ExamplesError(f"examples, {where}: the prompt is empty.")
    return Example(*texts, where)
