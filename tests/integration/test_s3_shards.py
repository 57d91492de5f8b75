"""Packing to, from and on real S3 servers gives the bytes that a local folder gives."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgray.data.index import open_images
from fgray.data.shards import build_shards, verify_shards
from fgray.errors import DataError
from fgray.storage import open_storage

SHARD_BYTES = 60_000
BUILD = f"import sys; from fgray.data.shards import build_shards; build_shards(sys.argv[1], sys.argv[2], sys.argv[3], {SHARD_BYTES})"


@pytest.fixture(scope="module")
def photos(data_root: Path) -> dict[str, bytes]:
    """Real photographs: path -> bytes."""
    root = data_root / "cub30"
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:150]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def folder(photos: dict[str, bytes], tmp_path: Path) -> Path:
    storage = open_storage(str(tmp_path / "images"))
    for path, data in photos.items():
        storage.write_bytes(path, data)
    return tmp_path / "images"


def content(uri: str) -> dict[str, bytes]:
    storage = open_storage(uri)
    return {info.path: storage.read_bytes(info.path) for info in storage.list() if not info.path.startswith(".fgray-")}


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_shards_on_s3_equal_local_ones(s3_bucket: str, folder: Path, photos: dict[str, bytes], tmp_path: Path, format: str) -> None:
    build_shards(str(folder), str(tmp_path / "out"), format, SHARD_BYTES)
    build_shards(str(folder), f"{s3_bucket}/out", format, SHARD_BYTES)
    assert content(f"{s3_bucket}/out") == content(str(tmp_path / "out"))
    assert verify_shards(f"{s3_bucket}/out") == []
    index = open_images(f"{s3_bucket}/out")
    keys = random.Random(0).choices(index.keys.to_pylist(), k=60)
    by_key = {path.rpartition(".")[0]: data for path, data in photos.items()}
    assert index.read(index.locate(keys)) == [by_key[key] for key in keys]
    # And onwards: S3 to local, another format.
    build_shards(f"{s3_bucket}/out", str(tmp_path / "back"), "tar", SHARD_BYTES)
    back = open_images(str(tmp_path / "back"))
    assert dict(zip(back.keys.to_pylist(), back.read(back.table), strict=True)) == by_key


def test_a_plain_prefix_is_packed_once(s3_bucket: str, photos: dict[str, bytes], tmp_path: Path) -> None:
    storage = open_storage(f"{s3_bucket}/plain")
    for path, data in photos.items():
        storage.write_bytes(path, data)
    by_key = {path.rpartition(".")[0]: data for path, data in photos.items()}
    in_place = open_images(f"{s3_bucket}/plain")
    assert dict(zip(in_place.keys.to_pylist(), in_place.read(in_place.table), strict=True)) == by_key
    for cache in (f"{s3_bucket}/cache", str(tmp_path / "cache")):
        index = open_images(f"{s3_bucket}/plain", cache)
        assert index.root_uri.startswith(f"{cache}/images-")
        assert dict(zip(index.keys.to_pylist(), index.read(index.table), strict=True)) == by_key
        before = {info.path: info.version for info in open_storage(cache).list()}
        assert open_images(f"{s3_bucket}/plain", cache).table.equals(index.table)
        assert {info.path: info.version for info in open_storage(cache).list()} == before
    wanted = sorted(by_key)[10:13]
    few = open_images(f"{s3_bucket}/plain", f"{s3_bucket}/cache", keys=wanted)
    assert few.keys.to_pylist() == wanted
    with pytest.raises(DataError, match="no image 'nobody'"):
        open_images(f"{s3_bucket}/plain", f"{s3_bucket}/cache", keys=["nobody"])


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_a_build_killed_in_a_commit_is_run_again(s3_bucket: str, folder: Path, tmp_path: Path, format: str) -> None:
    build_shards(str(folder), str(tmp_path / "calm"), format, SHARD_BYTES)
    calm = content(str(tmp_path / "calm"))
    storage = open_storage(f"{s3_bucket}/out")
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(folder), f"{s3_bucket}/out", format])
    while not storage.exists(f"shard-000001.{format}") and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = content(f"{s3_bucket}/out")
    assert left and "manifest.parquet" not in left, "the build ended before it could be killed"
    assert all(calm[name] == data for name, data in left.items())  # whatever is there is whole
    build_shards(str(folder), f"{s3_bucket}/out", format, SHARD_BYTES)
    assert content(f"{s3_bucket}/out") == calm
