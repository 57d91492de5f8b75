"""Weights from outside reach a cluster once, and each node once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pytest

from fgray.models import staging
from fgray.models.staging import read_once, staged_file, staged_folder
from fgray.storage import open_storage
from fgray.storage.local import LocalStorage


class Remote(LocalStorage):
    """A folder that says of itself that it is no local disk, and counts what is read from it."""

    is_local = False

    def read_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        with (Path(self.uri).parent / "reads").open("a") as log:
            log.write(path + "\n")
        time.sleep(0.2)
        return super().read_bytes(path, offset, length)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(staging.VARIABLE, str(tmp_path / "store/weights"))
    return tmp_path


def reads(node: Path) -> list[str]:
    return (node / "reads").read_text().split()


def read(uri: str) -> str:
    return hashlib.sha256(read_once(Remote(uri), "w.pt")).hexdigest()


def test_processes_of_one_node_share_one_download(node: Path) -> None:
    (node / "bucket").mkdir()
    (node / "bucket/w.pt").write_bytes(os.urandom(1000))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(read, [str(node / "bucket")] * 4)
    assert found == [hashlib.sha256((node / "bucket/w.pt").read_bytes()).hexdigest()] * 4
    assert reads(node) == ["w.pt"]
    (node / "bucket/w.pt").write_bytes(b"new")  # another version is another file
    assert read_once(Remote(str(node / "bucket")), "w.pt") == b"new"
    assert oct((node / "cache/fgray").stat().st_mode & 0o077) == "0o0" or oct((node / "cache/fgray/files").stat().st_mode & 0o077) == "0o0"


def test_without_a_cluster_nothing_is_kept(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(staging.VARIABLE)
    (node / "bucket").mkdir()
    (node / "bucket/w.pt").write_bytes(b"x")
    assert [read_once(Remote(str(node / "bucket")), "w.pt") for _ in range(2)] == [b"x", b"x"]
    assert len(reads(node)) == 2 and not (node / "cache").exists()


def test_a_published_file_is_fetched_once_and_named_by_its_content(node: Path) -> None:
    place, fetched = open_storage(str(node / "store/weights")), []

    def fetch() -> Path:
        fetched.append(1)
        (node / "hub.safetensors").write_bytes(b"weights")
        return node / "hub.safetensors"

    address = staged_file(place, "owner/model/open_clip_model.safetensors", fetch)
    assert address == f"{node}/store/weights/{hashlib.sha256(b'weights').hexdigest()}.safetensors"
    assert Path(address).read_bytes() == b"weights"
    assert staged_file(place, "owner/model/open_clip_model.safetensors", fetch) == address and len(fetched) == 1


def test_a_published_folder_is_fetched_once_and_laid_out_on_every_node(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, fetched = open_storage(str(node / "store/weights")), []

    def fetch() -> Path:
        fetched.append(1)
        (node / "snapshot").mkdir()
        (node / "snapshot/config.json").write_text("{}")
        (node / "snapshot/model.safetensors").write_bytes(b"weights")
        return node / "snapshot"

    first = staged_folder(place, "owner/model", fetch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(node / "cache of another node"))
    second = staged_folder(place, "owner/model", fetch)
    assert first != second and len(fetched) == 1
    for folder in (first, second):
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"config.json": b"{}", "model.safetensors": b"weights"}


def test_a_hugging_face_model_of_the_hub_opens_on_another_node(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker unpickles what the driver described; the driver's own folder does not exist there."""
    from fgray.models import hub
    from fgray.models.hugging_face import HuggingFaceSource

    (node / "snapshot").mkdir()
    (node / "snapshot/config.json").write_text("{}")
    monkeypatch.setattr(hub, "_snapshot", lambda name, where: node / "snapshot")
    source = HuggingFaceSource.__new__(HuggingFaceSource)
    source._path, source._folder = "owner/model", hub.snapshot("owner/model")
    assert json.loads((source._folder / "config.json").read_text()) == {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(node / "elsewhere"))
    monkeypatch.setattr(hub, "_snapshot", lambda name, where: pytest.fail("the hub was asked again"))
    sent = pickle.dumps(source)
    source._folder.rename(node / "gone")
    there = pickle.loads(sent)
    assert there._folder.is_relative_to(node / "elsewhere") and (there._folder / "config.json").exists()
