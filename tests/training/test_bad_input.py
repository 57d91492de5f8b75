"""What goes wrong outside a training run is one clear line, and the same command goes on once it is mended."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import fgray
from fgray.config import config_from_text
from fgray.errors import FgrayError
from fgray.training.run import TrainResult
from tests.training.jobs import config, write_pairs

ARCH = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def train(job: dict[str, Any]) -> TrainResult:
    """Run a job to its end."""
    return fgray.train(config_from_text(json.dumps(job), "job.yaml"))


def refusal(job: dict[str, Any]) -> str:
    """Run a job that must fail, and return its line."""
    with pytest.raises(FgrayError) as caught:
        train(job)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_costs_nothing_but_time(tmp_path: Path, small_disk: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    whole = train(config(pairs, tmp_path / "whole"))
    job = config(pairs, small_disk / "run")
    line = refusal(job)  # one checkpoint of 39 MB is there, the second does not fit
    assert line.startswith(f"the disk is full [{small_disk}/run/checkpoints/step-") and ": free some space" in line
    assert [path.parent.name for path in small_disk.glob("run/checkpoints/*/state.json")] == ["step-00000003"]
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    assert train(job).training["model_sha256"] == whole.training["model_sha256"]
    assert not list(small_disk.rglob("*.tmp*"))


def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    pairs = write_pairs(tmp_path / "data")
    for job in (
        config(pairs, tmp_path / "run") | {"output": "s3://bucket/run"},
        config({**pairs, "images": "s3://bucket/i"}, tmp_path / "run"),
    ):
        line = refusal(job)
        assert "does not answer" in line and "check AWS_ENDPOINT_URL and the network" in line


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    job = config(write_pairs(tmp_path / "data"), tmp_path / "run")
    whole = train(job)
    newest = max((tmp_path / "run" / "checkpoints").glob("*/state.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    shutil.rmtree(tmp_path / "run" / "model")
    line = refusal(job)
    assert newest.parent.name in line and "remove that folder" in line
    shutil.rmtree(newest.parent)
    assert train(job).training["model_sha256"] == whole.training["model_sha256"]


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    train(config(pairs, tmp_path / "run"))
    (tmp_path / "run" / "run.json").unlink()  # which would refuse another configuration by itself
    shutil.rmtree(tmp_path / "run" / "model")
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(ARCH))
    line = refusal(config(pairs, tmp_path / "run", model={"kind": "open_clip", "arch": str(arch)}))
    assert "does not fit" in line and str(tmp_path / "run") in line


def test_no_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    table = pq.read_table(pairs["root"])
    pq.write_table(table.slice(0, 0), pairs["root"])
    assert str(pairs["root"]) in refusal(config(pairs, tmp_path / "run"))


def test_an_empty_shard(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    shards = tmp_path / "shards"
    fgray.build_shards(pairs["images"], str(shards))
    first = sorted(shards.glob("*.tar"))[0]
    first.write_bytes(b"")
    line = refusal(config({**pairs, "images": str(shards)}, tmp_path / "run"))
    assert first.name in line


def test_more_workers_than_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 3)
    line = refusal(config(pairs, tmp_path / "run", batch_size=4, compute={"runner": "ray", "workers": 4}))
    assert line.startswith("a batch takes 4 pairs of file, which has 3") and "batch_size" in line
