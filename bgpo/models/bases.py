"""The frozen weights under a run's adapters: named, where they were published, or whole where they are nowhere else.

    base/reference.json               where published weights are, and what they looked like: a copy of them for each
                                      run would be 16 GB for 8 billion parameters
    base/model.safetensors, ...       weights after a warm start, or those of another run's checkpoint, by hard links

A reference is checked before it is used: an adapter on other weights than its own is a model that nobody has trained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from bgpo.models.denoiser import Denoiser
from bgpo.models.folders import INDEX, ModelError, check_weights
from bgpo.models.hub import local_folder
from bgpo.models.loading import Overrides, load

REFERENCE_FILE = "reference.json"
_PIECES, _PIECE = 64, 2**16  # bytes that are read of each file of weights: 4 MB of 5 GB tell a trained copy apart


@dataclass(frozen=True)
class BaseReference:
    """Published weights as a run has read them.

    Attributes:
        model_path: the hub id, with its revision, or the folder.
        folder: where they were.
        family, mask_id, prompt_style, attention_block: how they were read.
        dtype: what they are computed in, such as bfloat16.
        files: name -> [bytes, hash] of config.json, index and weights; of the weights a sample is hashed.
    """

    model_path: str
    folder: str
    family: str
    mask_id: int
    prompt_style: str
    attention_block: int
    dtype: str
    files: dict[str, list]


def refer_to(model: Denoiser, model_path: str, base: Path) -> None:
    """Writes into `base` which published weights `model` holds.

    Args:
        model: unchanged since it was read from `model.source`.
        model_path: hub id or folder.
    """
    source = model.source.absolute()
    spec = model.spec
    reference = BaseReference(
        _with_revision(model_path, source), str(source), spec.family, spec.mask_id, spec.prompt_style,
        spec.attention_block, str(next(model.model.parameters()).dtype).removeprefix("torch."), fingerprint(source),
    )
    base.mkdir(parents=True, exist_ok=True)
    (base / REFERENCE_FILE).write_text(json.dumps(asdict(reference), indent=1))


def referred(base: Path, device: torch.device | str = "cpu") -> Denoiser:
    """The weights that `base` refers to, downloaded again where they came from a hub and are gone.

    Raises:
        ModelError: in one sentence, when they cannot be had or have changed.
    """
    reference = _read(base / REFERENCE_FILE)
    there = Path(reference.folder)
    if not there.is_dir():
        there = _found_again(reference)
    try:
        now = fingerprint(there)
    except (OSError, ModelError) as error:
        raise ModelError(
            f"The model under this adapter, {reference.model_path}, is not whole at {there} ({error}); put it back."
        ) from None
    changed = sorted(name for name in now.keys() | reference.files.keys() if now.get(name) != reference.files.get(name))
    if changed:
        raise ModelError(
            f"The model under this adapter, {reference.model_path} at {there}, has changed since the adapter was "
            f"trained ({changed[0]} is another one); put back what it was, or choose another checkpoint."
        )
    overrides = Overrides(reference.mask_id, reference.prompt_style, reference.attention_block)
    return load(
        there, reference.family, dtype=getattr(torch, reference.dtype), device=device, overrides=overrides
    )


def fingerprint(folder: Path) -> dict[str, list]:
    """name -> [bytes, hash] of what a model computes with. Raises ModelError for half a folder, OSError."""
    small = [path for name in ("config.json", INDEX) if (path := folder / name).is_file()]
    return {path.name: [path.stat().st_size, _sampled_hash(path)] for path in (*small, *check_weights(folder))}


def _sampled_hash(path: Path) -> str:
    """SHA-256 of evenly spaced pieces, first and last included; of a small file of all of it."""
    size = path.stat().st_size
    places = range(0, max(1, size), _PIECE)
    if len(places) > _PIECES:
        places = [round(i * (size - _PIECE) / (_PIECES - 1)) for i in range(_PIECES)]
    found = hashlib.sha256()
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            found.update(file.read(_PIECE))
    return found.hexdigest()


def _with_revision(model_path: str, source: Path) -> str:
    """A hub id names a model that may be published anew; the folder of a download names which one it was."""
    downloaded = source.parent.name == "snapshots" and not Path(model_path).expanduser().is_dir()
    return f"{model_path}@{source.name}" if downloaded and "@" not in model_path else model_path


def _found_again(reference: BaseReference) -> Path:
    try:
        return local_folder(reference.model_path)
    except ModelError as error:
        raise ModelError(
            f"The model under this adapter, {reference.model_path}, is not at {reference.folder} any more; put it back "
            f"there, or choose another checkpoint. ({error})"
        ) from None


def _read(path: Path) -> BaseReference:
    try:
        values = json.loads(path.read_text())
        reference = BaseReference(**{field.name: values[field.name] for field in fields(BaseReference)})
        if getattr(torch, reference.dtype) not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"dtype {reference.dtype}")
        return reference
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} does not say which model this adapter belongs to ({' '.join(str(error).split())[:100]}); restore "
            "it, or choose another checkpoint."
        ) from None
