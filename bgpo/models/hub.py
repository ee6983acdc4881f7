"""A hub id or a local folder -> a local folder, downloaded with progress where it has to be.

The token comes from the environment (HF_TOKEN) and is kept nowhere. No file that is downloaded is ever executed.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from bgpo.models.folders import ModelError

TOKEN_VARIABLE = "HF_TOKEN"
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,100})?", re.ASCII)
# weights without pickles, tokenizer and config; published modules go back out with a saved model, unread
_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.py", "README.md", "LICENSE*"]

Report = Callable[[int, int], None]


def local_folder(model_path: str, report: Report = lambda done, total: None, endpoint: str | None = None) -> Path:
    """The folder that `model_path` means: itself, or the download of a hub id (`owner/name`, `owner/name@revision`).

    Args:
        report: told bytes done and in all while downloading; may raise, which ends the download. What is there
            already is not downloaded again.
        endpoint: of the hub; None: the public one, or HF_ENDPOINT.

    Raises:
        ModelError: in one sentence, with what to do.
    """
    folder = Path(model_path).expanduser()
    if os.path.isdir(folder):
        return folder
    if os.path.isfile(folder):
        raise ModelError(f"model_path = {_shown(model_path)} is a file; give the folder that holds it.")
    if not _HUB_ID.fullmatch(model_path) or model_path.startswith("."):
        raise ModelError(
            f"model_path = {_shown(model_path)} is neither a folder on this machine nor a hub id such as "
            "GSAI-ML/LLaDA-8B-Instruct; check the spelling, or give the whole path."
        )
    repo, _, revision = model_path.partition("@")
    with _refusals_in_words(repo, revision), _interruptions_in_words(repo):
        return _download(repo, revision or None, report, endpoint)


@contextmanager
def _refusals_in_words(repo: str, revision: str) -> Iterator[None]:
    """What the hub does not hand out, or cannot while it is not reached: asking again alone would not help."""
    try:
        yield
    except GatedRepoError:
        raise ModelError(
            f"{repo} is gated: accept its terms on its page on the hub, then start again with the environment variable "
            f"{TOKEN_VARIABLE} set to a token that may read it."
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"The hub has no model {repo} that can be read without asking; check the spelling, or set the environment "
            f"variable {TOKEN_VARIABLE} if it is private."
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"{repo} has no revision {revision}; leave @{revision} out, or name one that it has."
        ) from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"The hub cannot be reached, and {repo} has not been downloaded whole on this machine; go online and start "
            "again, or give a local folder in model_path."
        ) from None


@contextmanager
def _interruptions_in_words(repo: str) -> Iterator[None]:
    """What has broken off a download that goes on where it stopped; refusals pass, though they are OSErrors, too."""
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError):
        raise
    except (HFValidationError, HTTPError) as error:
        raise ModelError(
            f"Downloading {repo} failed ({' '.join(str(error).split())[:150]}); start again, it goes on where it "
            "stopped."
        ) from None
    except OSError as error:
        raise ModelError(
            f"Downloading {repo} failed ({error.strerror or error}); make room or mend that, then start again: it goes "
            "on where it stopped."
        ) from None


def _download(repo: str, revision: str | None, report: Report, endpoint: str | None) -> Path:
    token = os.environ.get(TOKEN_VARIABLE) or False  # never a token that some other tool has stored on this machine
    common = {"revision": revision, "token": token, "endpoint": endpoint, "allow_patterns": _FILES}
    try:
        planned = snapshot_download(repo, dry_run=True, tqdm_class=_silent(), **common)
    except DryRunError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):  # a gated one is a kind of it
            raise error.__cause__ from None
        # no connection: what is complete in the cache will do
        return Path(snapshot_download(repo, local_files_only=True, **{**common, "token": False}))
    total = sum(file.file_size for file in planned)
    there = total - sum(file.file_size for file in planned if file.will_download)
    report(there, total)
    folder = snapshot_download(repo, tqdm_class=_counting(there, total, report), **common)
    report(total, total)
    return Path(folder)


def _silent() -> type[tqdm]:
    return _counting(0, 0, lambda done, total: None)


def _counting(there: int, total: int, report: Report) -> type[tqdm]:
    """A progress bar that draws nothing and reports the bytes that reach the disk.

    The hub's client makes one bar for bytes over the network, one for bytes on the disk ("Reconstructing"), and one
    that counts files.
    """
    lock, done = threading.Lock(), [there]

    class Counting(tqdm):
        def __init__(self, *given: object, **options: object):
            self._counts = options.get("unit") == "B" and str(options.get("desc", "")).startswith("Reconstruct")
            super().__init__(*given, **options | {"file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                with lock:
                    done[0] = min(total, done[0] + int(n))
                    report(done[0], total)
            return super().update(n)

    return Counting


def _shown(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
