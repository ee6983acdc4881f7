"""A run in words and in the few figures that a list shows. Pure functions over rows; torch-free."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlencode

from bgpo.config import KNOBS, ConfigError, TrainConfig, differences
from bgpo.jobs.lineage import left_behind, reference
from bgpo.presets import PRESETS
from storage.runs import Run

STATUS_WORDS = {
    "queued": "Queued", "launching": "Starting", "running": "Running", "paused": "Paused",
    "finished": "Finished", "stopped": "Stopped", "failed": "Failed",
}
PHASE_WORDS = {
    "starting": "Starting", "downloading": "Downloading", "warming_up": "Warming up",
    "training": "Training", "evaluating": "Evaluating", "measuring": "Measuring",
}
_TONES = {
    "queued": "", "launching": "live", "running": "live", "paused": "warn", "finished": "good", "stopped": "warn",
    "failed": "bad",
}
KIND_WORDS = {
    "config_invalid": "The config cannot run", "oom_gpu": "Out of GPU memory", "oom_host": "Out of memory",
    "nan": "Not a number", "disk_full": "The disk is full", "data_error": "A file cannot be read",
    "exception": "The program failed", "killed": "The process was killed", "hung": "It stood still",
    "lost": "The process disappeared", "launch_timeout": "The process did not start",
}


def status_word(run: Run) -> str:
    """What the chip says: the phase of a running run, else its status; a requested stop shows at once."""
    if run.status == "running":
        if run.requested:
            return "Pausing" if run.requested in ("pause", "pause_overdue") else "Stopping"
        return "Stalled" if run.stalled_at else PHASE_WORDS.get(run.phase or "starting", "Running")
    return STATUS_WORDS.get(run.status, run.status)


def tone(run: Run) -> str:
    if run.status == "running" and run.stalled_at:
        return "warn"
    return _TONES.get(run.status, "")


def eta_seconds(run: Run) -> float | None:
    """Seconds left of the current phase, or None where there is nothing to count."""
    if run.status != "running" or not run.phase_rate or run.phase_total <= 0:
        return None
    return max(0, run.phase_total - run.phase_done) / run.phase_rate


def config_of(run: Run) -> TrainConfig | None:
    """The run's config, or None when the row holds one that this version cannot read."""
    return config_in(run.config_json)


@lru_cache(maxsize=2048)  # a poll asks for the same few again and again
def config_in(text: str) -> TrainConfig | None:
    """The config in a row's JSON, or None when this version cannot read it."""
    try:
        return TrainConfig.from_json(text)
    except ConfigError:
        return None


def config_file(config: TrainConfig) -> str:
    """The config as a JSON file that people read; the New run form takes it back."""
    return config.model_dump_json(indent=2) + "\n"


def preset_config(config: TrainConfig) -> tuple[str, TrainConfig]:
    """The preset of the config's job and task (title, config); the plain defaults where there is none."""
    return _preset_config(config.job, config.task)


@cache
def _preset_config(job: str, task: str) -> tuple[str, TrainConfig]:
    name = preset_name(job, task)
    return (PRESETS[name].title, PRESETS[name].config()) if name else ("the defaults", TrainConfig(task=task))


def preset_name(job: Any, task: Any) -> str | None:
    """The first preset of a job and task, if there is one."""
    usual = ((preset.config(), name) for name, preset in PRESETS.items())
    return next((name for config, name in usual if (config.job, config.task) == (job, task)), None)


def onward_query(config: TrainConfig, run_id: int, step: int) -> dict[str, str]:
    """The address of a New run form that goes on from a checkpoint by RL: its model, task and lengths."""
    named = next((name for name, preset in PRESETS.items()
                  if (preset.config().job, preset.config().task) == ("train", config.task)), next(iter(PRESETS)))
    usual = PRESETS[named].config()
    changed = differences(usual, config)
    kept = {name: str(value) for name, (_, value) in changed.items()
            if name == "model" or (KNOBS[name].group in ("Task", "Rollouts") and name != "job")}
    left = {name: value for name, value in left_behind("train").items() if getattr(usual, name) != value}
    return {"preset": named, **kept, **left, "start_from": reference(run_id, step)}


def value_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def change_words(before: TrainConfig, after: TrainConfig) -> list[str]:
    """`["mc_samples 4 → 16", ...]`: what was changed to get from one config to the other."""
    return [
        f"{name} {value_words(left)} → {value_words(right)}"
        for name, (left, right) in differences(before, after).items()
    ]


def knob_rows(config: TrainConfig) -> list[dict[str, Any]]:
    """Every knob with its value, its preset's value and whether the two differ, in the order of the form."""
    _, preset = preset_config(config)
    rows = []
    for name, knob in KNOBS.items():
        value, usual = getattr(config, name), getattr(preset, name)
        rows.append({
            "name": name, "label": knob.label, "group": knob.group, "help": knob.help, "unit": knob.unit,
            "value": value_words(value), "usual": value_words(usual), "differs": value != usual,
        })
    return rows


def differing_knobs(configs: dict[int, TrainConfig]) -> list[dict[str, Any]]:
    """The knobs in which several runs differ: `[{"name", "help", "values": {run id: words}}]`."""
    return [
        {"name": name, "help": knob.help, "values": {str(i): value_words(getattr(c, name)) for i, c in configs.items()}}
        for name, knob in KNOBS.items()
        if len({getattr(config, name) for config in configs.values()}) > 1
    ]


# what one click does about a failure: its label, and an action of the routes or `fork` for the form
_FIXES = {
    "oom_gpu": ("Again with smaller passes", "smaller"), "oom_host": ("Again with smaller passes", "smaller"),
    "config_invalid": ("Change the config", "form"), "data_error": ("Change the config", "form"),
    "nan": ("Fork with half the learning rate", "slower"),
}


def failure(run: Run, config: TrainConfig | None) -> dict[str, str] | None:
    """What a failed run's card says beside its reason: the kind in words, and the fix that one click makes."""
    if run.status != "failed":
        return None
    label, action = _FIXES.get(run.failure_kind, ("Retry", "resume"))
    query = ""
    if config and action in ("form", "slower"):
        changes: dict[str, Any] = {"learning_rate": config.learning_rate / 2} if action == "slower" else {}
        if changes and run.step:  # the first checkpoint is that of step 0
            query = fork_address(config, reference(run.id, "newest"), **changes)
        else:
            query = form_address(config, **changes)
    return {"title": KIND_WORDS.get(run.failure_kind, "This run failed"), "fix": label, "action": action, "form": query}


def fork_address(config: TrainConfig, start_from: str, **changes: Any) -> str:
    """The same of a run that goes on from a checkpoint of one with this config."""
    left = config.model_copy(update=left_behind(config.job))  # unchecked: the form says at the fields what is wrong
    return form_address(left, start_from=start_from, **changes)


def form_address(config: TrainConfig, **changes: Any) -> str:
    """The query of an address that opens the New run form with this config: its preset, and what differs."""
    preset = next((preset for preset in PRESETS.values() if preset.config().task == config.task), None)
    usual = preset.config() if preset else TrainConfig()
    values = {name: right for name, (_, right) in differences(usual, config).items()} | changes
    query = {"preset": preset.name if preset else next(iter(PRESETS)), **values}
    return urlencode({name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()})
