"""Configs as command lines: the flags of the worker, made from the knobs, and the exact command of a config."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from bgpo.config import GROUPS, KNOBS, ConfigError, Knob, TrainConfig, differences
from bgpo.presets import PRESETS
from storage.database import Database, sqlite_url

DEFAULT_PRESET = "adder"
_PASSWORD = re.compile(r"://[^/:@]*:[^@]*@|[?&]password=")
DATABASE_VARIABLE = "BGPO_DATABASE"  # read when --database is not given; the place for a URL with a password


def command_line(config: TrainConfig, database_url: str) -> str:
    """The command that trains `config` without a browser, quoted for a shell: nearest preset, then what differs.

    A URL that holds a password is not shown; the command then reads the environment variable BGPO_DATABASE.
    """
    preset = min(PRESETS.values(), key=lambda preset: len(differences(preset.config(), config)))
    words = ["python", "-m", "bgpo.jobs.worker", "--preset", preset.name, "--seed", str(config.seed)]
    for name, (_, value) in differences(preset.config(), config).items():
        if name != "seed":
            word = _as_word(value)
            # what begins with a dash would be taken for a flag
            words += [f"{flag(name)}={word}"] if word.startswith("-") else [flag(name), word]
    database = f'"${DATABASE_VARIABLE}"' if holds_password(database_url) else shlex.quote(database_url)
    return f"{shlex.join(words)} --database {database}"


def export_command(config: TrainConfig, checkpoint: str, run_id: int, step: int) -> str:
    """The command that writes a checkpoint as a model in its published layout, quoted for a shell."""
    merge = [] if config.adapter == "none" else ["--merge"]
    target = f"{config.model}-run-{run_id}-step-{step}"
    return shlex.join(["python", "-m", "bgpo.models.export", checkpoint, *merge, "--to", target])


def holds_password(url: str) -> bool:
    """Whether a database URL has a password in it, before the host or among the options."""
    return _PASSWORD.search(url) is not None


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --preset and one flag per knob, grouped as in the form. Values stay text: `config_from_arguments` judges."""
    parser.add_argument(
        "--preset", metavar="NAME",
        help=f"the config to start from: {', '.join(PRESETS)} (default: {DEFAULT_PRESET}); the flags below change it",
    )
    for group in GROUPS:
        section = parser.add_argument_group(group.lower())
        for knob in KNOBS.values():
            if knob.group == group:
                section.add_argument(flag(knob.name), dest=knob.name, metavar=_metavar(knob), help=_help(knob))


def config_from_arguments(arguments: argparse.Namespace) -> TrainConfig:
    """The preset with the given knobs changed. Raises ConfigError, one sentence per problem."""
    preset = PRESETS.get(arguments.preset or DEFAULT_PRESET)
    if preset is None:
        known = ", ".join(PRESETS)
        raise ConfigError({"preset": f"There is no preset named {arguments.preset}; the presets are {known}."})
    return preset.config().with_values(**given_knobs(arguments))


def given_knobs(arguments: argparse.Namespace) -> dict[str, str]:
    """The knobs that the command line names, as text."""
    return {name: getattr(arguments, name) for name in KNOBS if getattr(arguments, name, None) is not None}


def data_folder(given: Path | None, db: Database | None = None) -> Path:
    """What --data-dir names, else the folder of the SQLite file, else the app's own. Raises StorageError."""
    if given is not None:
        sqlite_url(given / "bgpo.db")  # refuses a name that no row can hold, whichever the database is
        return given.expanduser().absolute()
    if db is not None and db.path is not None:
        return db.path.parent
    import platformdirs

    return Path(platformdirs.user_data_dir("bgpo-studio"))


def flag(name: str) -> str:
    """`mc_samples` -> `--mc-samples`."""
    return "--" + name.replace("_", "-")


def _as_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metavar(knob: Knob) -> str:
    return {int: "N", float: "X", bool: "true|false", str: "NAME"}[knob.kind]


def _help(knob: Knob) -> str:
    allowed = "" if knob.kind is bool else f"; {knob.allowed}" + (f" {knob.unit}" if knob.unit else "")
    # argparse takes % for its own
    return f"{knob.help.rstrip('.')}{allowed} (default: {_as_word(knob.default)})".replace("%", "%%")
