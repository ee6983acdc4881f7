"""Checkpoints: a folder in the layout that `from_pretrained` reads, with the training state beside it.

    model.safetensors, config.json, tokenizer.json, ...   what other tools read
    optimizer.safetensors                                  AdamW's moments by parameter name
    training_state.json                                    phase, step, and what else a resume needs
    manifest.json                                          SHA-256 of each file above, written last

Written into a temporary folder, synced to disk and renamed: a folder under its final name is whole.
Nothing here reads or writes a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from bgpo.models.denoiser import Denoiser

transformers_logging.disable_progress_bar()

STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"


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
    folder: Path, model: Denoiser, state: TrainingState, optimizer: torch.optim.Optimizer | None
) -> None:
    """Writes a whole checkpoint under `folder`, replacing one that is there.

    Raises:
        OSError: when the disk is full or not writable; nothing is left under `folder` then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.model.save_pretrained(staging)
        model.tokenizer.save_pretrained(staging)
        if optimizer is not None:
            save_file(_optimizer_tensors(model, optimizer), staging / OPTIMIZER_FILE)
        (staging / STATE_FILE).write_text(json.dumps(vars(state)))
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
    """The weights and tokenizer of a checkpoint, in eval mode; raises CheckpointError."""
    verify(folder)
    model, info = LlamaForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    strange = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
    if strange:
        raise CheckpointError(f"{folder} does not fit its config: {', '.join(strange[:5])} missing or unexpected.")
    return Denoiser(model.to(device).eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True))


def load_state(folder: Path) -> TrainingState:
    return TrainingState(**json.loads((folder / STATE_FILE).read_text()))


def load_optimizer(folder: Path, model: Denoiser, optimizer: torch.optim.Optimizer) -> None:
    """Puts AdamW's moments and step counts back, exactly."""
    tensors = load_file(folder / OPTIMIZER_FILE, device=str(model.device))
    for name, parameter in model.model.named_parameters():
        prefix = f"{name}|"
        entries = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if entries:
            optimizer.state[parameter] = entries


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


def _optimizer_tensors(model: Denoiser, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}|{key}": value.contiguous()
        for name, parameter in model.model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
