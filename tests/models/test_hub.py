"""Hub ids: downloaded with progress from a hub on this machine; each refusal is one sentence with what to do."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import constants

from bgpo.models.folders import ModelError
from bgpo.models.hub import local_folder
from bgpo.models.loading import load
from tests.models import published
from tests.models.fake_hub import COMMIT, fake_hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with fake_hub() as hub:
        hub.models["owner/tiny-llada"] = published.llada(tmp_path / "published", shards=2)
        (tmp_path / "published" / "pytorch_model.bin").write_bytes(b"a pickle")
        yield hub


def test_a_hub_id_is_downloaded_with_progress_and_then_read(hub, tmp_path):
    told: list[tuple[int, int]] = []
    folder = local_folder("owner/tiny-llada", lambda done, total: told.append((done, total)), hub.url)
    source = hub.models["owner/tiny-llada"]
    assert told[0][0] == 0 and told[-1][0] == told[-1][1] and len({total for _, total in told}) == 1
    assert told[-1][1] == sum(path.stat().st_size for path in source.iterdir() if path.suffix != ".bin")
    assert [done for done, _ in told] == sorted(done for done, _ in told) and len(told) > 3
    assert not list(folder.glob("*.bin"))  # no pickle comes along
    model, original = load(folder, "llada"), load(source, "llada")
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), original.model.parameters()))
    assert {name for name in model.spec.files if name.endswith(".py")} == {"modeling_llada.py"}
    assert not list(tmp_path.rglob("EXECUTED"))

    told.clear()
    before = len(hub.asked)
    assert local_folder("owner/tiny-llada", lambda done, total: told.append((done, total)), hub.url) == folder
    assert told[0][0] == told[0][1]  # all of it was there
    assert not [path for path, _ in hub.asked[before:] if "safetensors" in path and "resolve" in path]


def test_a_revision_can_be_named(hub):
    assert local_folder(f"owner/tiny-llada@{COMMIT}", endpoint=hub.url).name == COMMIT
    with pytest.raises(ModelError, match="has no revision v9; leave @v9 out"):
        local_folder("owner/tiny-llada@v9", endpoint=hub.url)


def test_a_download_can_be_stopped_and_goes_on(hub):
    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            raise Enough

    with pytest.raises(Enough):
        local_folder("owner/tiny-llada", stop, hub.url)
    load(local_folder("owner/tiny-llada", endpoint=hub.url), "llada")


def test_gated_and_missing_models_say_what_to_do(hub, monkeypatch):
    hub.gated.add("owner/tiny-llada")
    with pytest.raises(ModelError, match=r"is gated: accept its terms.*HF_TOKEN"):
        local_folder("owner/tiny-llada", endpoint=hub.url)
    with pytest.raises(ModelError, match=r"no model owner/nothing.*spelling.*HF_TOKEN"):
        local_folder("owner/nothing", endpoint=hub.url)
    assert not [header for _, header in hub.asked if header]
    monkeypatch.setenv("HF_TOKEN", hub.token)
    folder = local_folder("owner/tiny-llada", endpoint=hub.url)
    assert (folder / "config.json").exists()
    kept = [path for path in folder.parents[3].rglob("*") if path.is_file() and hub.token.encode() in path.read_bytes()]
    assert not kept  # the token is nowhere on disk


def test_offline_takes_what_is_there_and_says_when_it_is_not(hub, monkeypatch):
    folder = local_folder("owner/tiny-llada", endpoint=hub.url)
    nowhere = "http://127.0.0.1:9"
    assert local_folder("owner/tiny-llada", endpoint=nowhere) == folder
    with pytest.raises(ModelError, match=r"cannot be reached.*go online.*local folder"):
        local_folder("owner/other", endpoint=nowhere)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_folder("owner/tiny-llada", endpoint=hub.url) == folder
    with pytest.raises(ModelError, match="cannot be reached"):
        local_folder("owner/other", endpoint=hub.url)


@pytest.mark.parametrize("path", [
    "/no/such/folder", "./model", "~/nothing/here/at/all", "owner/name/more", "llada", "...", "../x", "a b/c",
    "x" * 500,
])
def test_what_is_neither_folder_nor_id_is_refused_without_asking_the_hub(hub, path):
    with pytest.raises(ModelError, match="neither a folder on this machine nor a hub id") as caught:
        local_folder(path, endpoint=hub.url)
    assert len(str(caught.value)) < 300 and not hub.asked


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        local_folder(str(tmp_path / "model.safetensors"))
    assert local_folder(str(tmp_path)) == tmp_path
