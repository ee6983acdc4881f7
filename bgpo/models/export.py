"""A checkpoint or adapter -> a model in published layout: a folder, a zip file, or a repository on a hub.

    python -m bgpo.models.export runs/run-00007/checkpoints/step-000060 --to exported
    python -m bgpo.models.export ADAPTER_FOLDER --merge --base GSAI-ML/LLaDA-8B-Instruct --to merged.zip
    python -m bgpo.models.export runs/run-00007/checkpoints/step-000060 --merge --push you/your-model

Optimiser states stay behind. The token of a hub is read from HF_TOKEN and kept nowhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from bgpo.models.adapter_names import with_stock_names
from bgpo.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    base_of,
    has_adapter,
    is_adapter,
    load_adapter,
    merge_adapter,
)
from bgpo.models.checkpoints import MANIFEST_FILE, load_model, verify
from bgpo.models.denoiser import Denoiser
from bgpo.models.folders import ModelError
from bgpo.models.hub import TOKEN_VARIABLE, local_folder
from bgpo.models.loading import load, save_published

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def open_model(folder: Path, base: str = "") -> Denoiser:
    """The model of a checkpoint, of an adapter folder with its base, or of a published folder.

    Args:
        base: folder or hub id of the frozen weights under an adapter; '': those that the adapter names.

    Raises:
        ValueError: in one sentence.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}; give a checkpoint, an adapter or a model folder.")
    if (folder / MANIFEST_FILE).exists() and not base:
        return load_model(folder)
    if not is_adapter(folder):
        return load(folder, dtype="auto")
    named = base or base_of(folder)
    if not named:
        raise ModelError(f"{folder} is an adapter that names no base model; give it with --base.")
    model = load(local_folder(named), dtype="auto")
    with with_stock_names(folder, model.spec.family) as renamed:
        load_adapter(model.model, renamed)
    return model


def write_folder(folder: Path, target: Path, merge: bool = False, base: str = "") -> None:
    """Writes the model of `folder` under `target`, which must not hold anything; whole or not at all.

    Args:
        merge: add an adapter into its base; without it an adapter is written as an adapter.

    Raises:
        ValueError, OSError: nothing is left under `target` then.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is there already; give a folder that is not, or an empty one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if is_adapter(folder) and not merge:
            _copy_adapter(folder, staging)
        else:
            model = open_model(folder, base)
            if has_adapter(model.model):
                merge_adapter(model.model)
            save_published(model, staging)
        os.chmod(staging, 0o755)
        if target.exists():
            target.rmdir()
        os.rename(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def write_zip(folder: Path, target: Path, merge: bool = False, base: str = "") -> None:
    """The same as one zip file, uncompressed: weights do not shrink. Raises ValueError, OSError."""
    if target.exists():
        raise ModelError(f"{target} is there already; give another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        write_folder(folder, Path(work) / target.stem, merge, base)
        whole = Path(work) / "whole.zip"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted((Path(work) / target.stem).iterdir()):
                archive.write(path, f"{target.stem}/{path.name}")
        os.rename(whole, target)


def push(
    folder: Path, repo: str, *, merge: bool = False, base: str = "", public: bool = False, work: Path | None = None,
    api: Callable[..., Any] = HfApi,
) -> str:
    """Uploads the model of `folder` into a repository, made private unless `public`; returns its address.

    Args:
        work: where the folder is put together; None: the system's place for temporary files.
        api: makes the client of the hub from a token.

    Raises:
        ValueError: in one sentence.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise ModelError(
            f"Pushing needs a token that may write: set the environment variable {TOKEN_VARIABLE}; it is kept nowhere."
        )
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ModelError(f"{repo!s:.100} is no name of a repository; give one such as you/your-model.") from None
    with tempfile.TemporaryDirectory(dir=work) as place:
        made = Path(place) / "model"
        write_folder(folder, made, merge, base)
        try:
            client = api(token=token)
            client.create_repo(repo, private=not public, exist_ok=True)
            done = client.upload_folder(repo_id=repo, folder_path=str(made), commit_message="Model from BGPO Studio")
        except (HTTPError, OSError) as error:
            reason = " ".join(str(error).replace(token, "***").split())[:200]
            raise ModelError(
                f"The hub did not take {repo} ({reason}); check the token's rights and the name."
            ) from None
    return str(done)


def main(argv: list[str] | None = None) -> int:
    """The command line: 0 done, 2 something wrong with what was asked."""
    arguments = parser().parse_args(argv)
    folder = Path(arguments.checkpoint).expanduser()
    try:
        if arguments.push:
            print(push(folder, arguments.push, merge=arguments.merge, base=arguments.base, public=arguments.public))
            return 0
        target = Path(arguments.to).expanduser()
        write = write_zip if target.suffix == ".zip" else write_folder
        write(folder, target, arguments.merge, arguments.base)
        print(target)
        return 0
    except (ValueError, OSError) as error:
        print(f"export: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bgpo.models.export", allow_abbrev=False,
        description="Writes a checkpoint as a model in its published layout: names, config and tokenizer files.",
    )
    parser.add_argument("checkpoint", help="folder of a checkpoint, of a peft adapter, or of a model")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="FOLDER", help="a new folder, or a file that ends in .zip")
    where.add_argument("--push", metavar="REPO", help=f"a repository on the hub; the token comes from {TOKEN_VARIABLE}")
    parser.add_argument("--merge", action="store_true", help="add an adapter into its base: a whole model")
    parser.add_argument("--base", default="", help="folder or hub id of the base, where the adapter does not name it")
    parser.add_argument("--public", action="store_true", help="a repository that --push makes is private without this")
    return parser


def _copy_adapter(folder: Path, target: Path) -> None:
    if (folder / MANIFEST_FILE).exists():
        verify(folder)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, *_TOKENIZER):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    if not (target / ADAPTER_WEIGHTS).exists():
        raise ModelError(f"{folder} holds no {ADAPTER_WEIGHTS}; save the adapter again with safetensors.")


if __name__ == "__main__":
    sys.exit(main())
