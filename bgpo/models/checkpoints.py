"""Checkpoints: a folder in the layout that the model was published in, with the training state beside it.

    model.safetensors, config.json, tokenizer.json, ...   what other tools read (bgpo/models/loading.py)
    adapter_model.safetensors, adapter_config.json         in place of the model, where only an adapter is trained
    optimizer.safetensors                                  AdamW's moments by parameter name, and float32 masters
    training_state.json                                    phase, step, and what else a resume needs
    manifest.json                                          SHA-256 of each file above, written last

The frozen weights under a run's adapters are what the folder `base` beside its checkpoints holds or names (bases.py),
or where the adapter's config says. Written into a temporary folder, synced to disk and renamed: a folder under its
final name is whole.
Nothing here reads or writes a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bgpo.models.adapters import base_of, has_adapter, is_adapter, load_adapter, save_adapter
from bgpo.models.bases import REFERENCE_FILE, referred
from bgpo.models.denoiser import Denoiser
from bgpo.models.folders import BASE_FOLDER, ModelError
from bgpo.models.hub import local_folder
from bgpo.models.loading import load, save_published

STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"
_MASTER = "master"


class CheckpointError(ValueError):
    """A folder that is no whole checkpoint, in a sentence."""


@dataclass(frozen=True)
class TrainingState:
    """Where training stands.

    Attributes:
        phase: "warming_up" (step counts supervised steps) or "training" (optimiser steps of RL).
        step: finished steps of that phase.
        seconds: running time so far, over all resumes.
        threads: CPU threads the run computes with; kept so that a resume adds up in the same order.
        token_budget: tokens of a likelihood pass, kept for the same reason; 0 before the first was chosen.
        tokens, compute: what training has spent so far; see `Spending`.
    """

    phase: str
    step: int
    seconds: float
    threads: int
    token_budget: int = 0
    tokens: int = 0
    compute: int = 0


def save_checkpoint(
    folder: Path,
    model: Denoiser,
    state: TrainingState,
    optimizer: torch.optim.Optimizer | None,
    masters: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Writes a whole checkpoint under `folder`, replacing one that is there.

    Args:
        masters: what the optimiser moves in place of half-precision parameters, by their names.

    Raises:
        OSError: when the disk is full or not writable; nothing is left under `folder` then.
    """
    with _appears_whole(folder) as staging:
        if has_adapter(model.model):
            save_adapter(model.model, staging)
            model.tokenizer.save_pretrained(staging)
        else:
            save_published(model, staging)
        if optimizer is not None:
            save_file(_optimizer_tensors(model, optimizer, masters), staging / OPTIMIZER_FILE)
        (staging / STATE_FILE).write_text(json.dumps(vars(state)))


def share_checkpoint(source: Path, folder: Path, state: TrainingState) -> None:
    """The model of the checkpoint `source` as one of its own under `folder`, with weights that are on the disk once.

    They are hard links, so they stay when `source` is deleted, and copies where the disk has no links or `source` is on
    another one. No file of a checkpoint is ever written to again. Raises OSError.
    """
    with _appears_whole(folder) as staging:
        for path in filter(Path.is_file, source.iterdir()):
            if path.suffix != ".safetensors":
                shutil.copy2(path, staging)
            elif path.name != OPTIMIZER_FILE:
                _link_or_copy(path, staging / path.name)
        (staging / STATE_FILE).write_text(json.dumps(vars(state)))
        (staging / MANIFEST_FILE).unlink()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _appears_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which then gets its manifest and the name `folder`; after an error nothing is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield staging
        hashes = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
        (staging / MANIFEST_FILE).write_text(json.dumps(hashes, indent=1))
        for path in staging.iterdir():
            _sync(path)
        os.chmod(staging, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(staging, folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def verify(folder: Path) -> None:
    """Raises CheckpointError unless every file is there and unchanged since it was written."""
    try:
        hashes: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
        broken = [name for name, expected in hashes.items() if _sha256(folder / name) != expected]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {error}. Choose another one.") from None
    if broken:
        names = ", ".join(broken)
        raise CheckpointError(f"{folder} is damaged: {names} changed since it was saved. Choose another one.")


def load_model(folder: Path, device: torch.device | str = "cpu") -> Denoiser:
    """The weights and tokenizer of a checkpoint, in eval mode, its adapter in place; raises CheckpointError."""
    verify(folder)
    if not is_adapter(folder):
        return _whole_model(folder, device)
    model = load_base(folder, device)
    put_adapter(model, folder)
    return model


def put_adapter(model: Denoiser, folder: Path) -> None:
    """Puts the adapter of a checkpoint into the frozen model it belongs to; raises CheckpointError."""
    try:
        load_adapter(model.model, folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    model.model.eval()


def load_base(folder: Path, device: torch.device | str = "cpu") -> Denoiser:
    """The frozen model under the adapter in `folder`; raises CheckpointError when it is gone or has changed."""
    named = base_of(folder)
    own = folder.parent.parent / BASE_FOLDER  # first: a data folder may be moved
    try:
        if named and (own / REFERENCE_FILE).exists():
            return referred(own, device)
        for base in (own, Path(named)):
            if named and (base / MANIFEST_FILE).exists():
                return load_model(base, device)
        if named and (Path(named).is_dir() or not Path(named).is_absolute()):  # an adapter away from its run
            return load(local_folder(named), dtype="auto", device=device)
    except ModelError as error:
        raise CheckpointError(str(error)) from None
    raise CheckpointError(
        f"{folder} is an adapter, and the model it belongs to is not at {named or 'any place it names'}; put that "
        "back, or choose another checkpoint."
    )


def _whole_model(folder: Path, device: torch.device | str) -> Denoiser:
    try:
        return load(folder, dtype="auto", device=device)
    except ModelError as error:
        raise CheckpointError(str(error)) from None


def load_state(folder: Path) -> TrainingState:
    return TrainingState(**json.loads((folder / STATE_FILE).read_text()))


def load_optimizer(
    folder: Path,
    model: Denoiser,
    optimizer: torch.optim.Optimizer,
    masters: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Puts masters, moments and step counts back, exactly."""
    tensors = load_file(folder / OPTIMIZER_FILE, device=str(model.device))
    for name, parameter in model.model.named_parameters():
        prefix = f"{name}|"
        entries = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if _MASTER in entries:
            masters[name].copy_(entries.pop(_MASTER))
        if entries:
            optimizer.state[masters.get(name, parameter)] = {key: _from_tensor(v) for key, v in entries.items()}


def discard_half_written(checkpoints: Path) -> None:
    """Removes what a process left that was killed while it saved. Only for the one that holds the run."""
    for staging in checkpoints.glob(".step-*"):
        shutil.rmtree(staging, ignore_errors=True)


def newest(checkpoints: Path) -> Path | None:
    """The furthest whole checkpoint that training can go on from; damaged ones are passed over."""
    for folder in sorted(checkpoints.glob("[!.]*"), key=_progress, reverse=True):
        try:
            verify(folder)
        except CheckpointError:
            continue
        if (folder / OPTIMIZER_FILE).exists():
            return folder
    return None


def _progress(folder: Path) -> tuple[bool, int]:
    try:
        state = load_state(folder)
    except (OSError, ValueError, TypeError):
        return (False, -1)
    return (state.phase == "training", state.step)


def _optimizer_tensors(
    model: Denoiser, optimizer: torch.optim.Optimizer, masters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    found = {f"{name}|{_MASTER}": master for name, master in masters.items()}
    for name, parameter in model.model.named_parameters():
        for key, value in optimizer.state.get(masters.get(name, parameter), {}).items():
            # all parameters share bitsandbytes' tables of 8-bit values; safetensors wants each to have its own
            found[f"{name}|{key}"] = value.clone() if key.startswith("qmap") else _to_tensor(value)
    return found


def _to_tensor(value: Tensor | int) -> Tensor:
    """bitsandbytes counts its steps in plain numbers."""
    return torch.tensor([value]) if isinstance(value, int) else value.contiguous()


def _from_tensor(value: Tensor) -> Tensor | int:
    return int(value) if value.dtype == torch.int64 else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
