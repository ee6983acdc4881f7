"""What a model folder on disk holds, checked before any weight is read. Torch-free; no file of it is ever executed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from bgpo.models.registry import MODELS, ModelFamily

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CHECKPOINT_FILES = ("optimizer.safetensors",)  # beside the weights of a run's checkpoint, not part of them
BASE_FOLDER = "base"  # in a run's folder, of the model under its adapters (bases.py)
SPEC_FILE = "denoiser.json"  # what config.json has no field for; written beside saved weights
_SMALL = 64 * 2**20  # bytes; larger files are weights, not a tokenizer
_PUBLISHED = ("*.json", "*.txt", "*.jinja", "*.model", "*.py", "*.md")
_OURS = (INDEX, SPEC_FILE, "training_state.json", "manifest.json", "adapter_config.json")


class ModelError(ValueError):
    """Why a model cannot be used, in one sentence with what to do."""


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict; raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}; give a folder with config.json and *.safetensors, or a hub id.")
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise ModelError(
            f"{folder} holds no config.json, so it is no model folder; give the folder that was downloaded or saved "
            "as a whole."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read ({error}); download or save it again.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is no JSON object; download or save it again.")
    return config


def check_family(config: dict[str, Any], family: ModelFamily, folder: Path) -> str:
    """The stock class for this config.json; raises ModelError when the family does not compute it."""
    model_type = str(config.get("model_type", ""))
    causal = model_type in ("llama", "qwen2", "qwen3") and config.get("is_causal") is not False
    if model_type in family.classes and not causal:
        return family.classes[model_type]
    if causal:
        raise ModelError(
            f"{folder} holds an ordinary {model_type} that reads from left to right, not a diffusion model; choose a "
            'checkpoint that was converted and trained as one (its config.json says "is_causal": false, or model_type '
            f"a2d-{model_type})."
        )
    others = [other.name for other in MODELS.values() if model_type in other.classes]
    if others:
        raise ModelError(
            f"{folder} holds a model of type {model_type}, which is not in the family {family.name}; "
            f"set model to {' or '.join(others)}."
        )
    known = sorted({kind for other in MODELS.values() for kind in other.classes})
    raise ModelError(
        f"{folder} holds a model of type {model_type or 'unknown'!s:.40}, which no family here computes; known types "
        f"are {', '.join(known)}. Its own code is never run (trust_remote_code stays off); choose another model."
    )


def check_weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder, each whole; raises ModelError naming what is absent or cut short."""
    files = _weight_files(folder)
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise ModelError(
            f"{folder} is half downloaded: {INDEX} names {len(files)} files and {', '.join(absent[:3])}"
            f"{' and more' * (len(absent) > 3)} {'is' if len(absent) == 1 else 'are'} not there; "
            "start the download again, it goes on where it stopped."
        )
    for path in files:
        short = _missing_bytes(path)
        if short:
            raise ModelError(f"{path} is {short}; download or copy it again.")
    return files


def published_files(folder: Path) -> dict[str, bytes]:
    """The small files that belong to a published model, by name, to be written back as they are."""
    names = sorted({path for pattern in _PUBLISHED for path in folder.glob(pattern)})
    return {
        path.name: path.read_bytes() for path in names
        if path.is_file() and path.name not in _OURS and path.stat().st_size <= _SMALL
    }


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index} cannot be read ({error}); download it again.") from None
        if any(Path(name).name != name for name in names):
            raise ModelError(f"{index} names files outside its folder; choose another model.")
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, and reading one can run code; convert it to "
            "safetensors first."
        )
    raise ModelError(
        f"{folder} holds no weights (neither {SINGLE} nor {INDEX}); download it as a whole, or give another folder."
    )


def _missing_bytes(path: Path) -> str:
    """What is wrong with the size of a safetensors file in words, or ''. Reads its header alone."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, 100_000_000):
                raise ValueError
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "no safetensors file, or cut short in its header"
    whole = 8 + length + end
    return f"cut short ({size:,} of {whole:,} bytes)" if size < whole else ""
