"""How one knob is declared, what a form or a command line reads of it, and what is said of a wrong value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

LONGEST_TEXT = 1000


class ConfigError(ValueError):
    """A config that cannot run. `problems` maps each knob at fault to one sentence for a person."""

    def __init__(self, problems: Mapping[str, str]):
        self.problems = dict(problems)
        super().__init__(" ".join(self.problems.values()))


def knob(
    default: Any,
    help: str,
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | Mapping[str, Any] | None = None,
    unit: str = "",
    rare: bool = False,
) -> Any:
    """One field of `TrainConfig`; `rare` ones are folded away in the form."""
    extra = {"group": group, "choices": list(choices or ()), "unit": unit, "rare": rare}
    if isinstance(default, str):
        return Field(default, max_length=LONGEST_TEXT, description=help, json_schema_extra=extra)
    finite = {"allow_inf_nan": False} if isinstance(default, float) else {}
    return Field(default, ge=low, le=high, description=help, json_schema_extra=extra, **finite)


@dataclass(frozen=True)
class Knob:
    """What a form or a command line needs to know of one field."""

    name: str
    kind: type
    default: Any
    help: str
    group: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    unit: str
    rare: bool

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def allowed(self) -> str:
        """The allowed values in words, as error sentences and tooltips say them."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return f"a text of at most {LONGEST_TEXT} characters"
        if self.kind is int:
            return f"a whole number from {self.low:.0f} to {self.high:.0f}"
        return f"a number from {self.low:g} to {self.high:g}"


def knob_of(name: str, field: FieldInfo) -> Knob:
    """What `knob` declared, read back from the model's field."""
    extra = field.json_schema_extra
    bounds = {key: getattr(part, key) for part in field.metadata for key in ("ge", "le") if hasattr(part, key)}
    return Knob(
        name, field.annotation, field.default, field.description, extra["group"], bounds.get("ge"), bounds.get("le"),
        tuple(extra["choices"]), extra["unit"], extra["rare"],
    )


def sentences(error: ValidationError, knobs: Mapping[str, Knob]) -> dict[str, str]:
    """One sentence for each knob at fault, by its name; `config` where the whole is no set of knobs."""
    problems: dict[str, str] = {}
    for item in error.errors():
        if item["type"] == "problems":
            problems |= item["ctx"]["problems"]
            continue
        name = str(item["loc"][0]) if item["loc"] else "config"
        if name not in knobs:
            problems[name] = (
                "The config is not a JSON object of knobs; give one, such as {\"mc_samples\": 16}."
                if name == "config" or item["type"].startswith("json")
                else f"There is no knob named {shown(name)}; the knobs are {', '.join(knobs)}."
            )
        else:
            problems[name] = f"{name} = {shown(item['input'])} is not allowed; give {knobs[name].allowed}."
    return problems


def shown(value: Any) -> str:
    """A value as a sentence names it: cut at 60 characters."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
