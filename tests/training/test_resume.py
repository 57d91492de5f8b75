"""A run goes on, or is shown again, only with the data, base model and arithmetic that it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import fgray
from fgray.config.loading import config_from_text
from fgray.errors import ConfigError, RunError
from fgray.training.run import TrainResult
from tests.training.jobs import config, write_pairs
from tests.training.small import SETTINGS, architecture

Job = dict[str, Any]


def train(job: Job) -> TrainResult:
    return fgray.train(config_from_text(json.dumps(job), "job.yaml"))


def write_weights(file: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(open_clip.CLIP(**SETTINGS).state_dict(), file)


def job_in(folder: Path) -> Job:
    weights, arch = folder / "base.pt", folder / "small.json"
    model = {"kind": "open_clip", "arch": str(arch), "weights": str(weights), "activation": "gelu"}
    pairs = {"name": "file", "root": str(folder / "data" / "pairs.parquet"), "images": str(folder / "data" / "images")}
    return config(pairs, folder / "run", model=model, steps=6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, base model and the finished run."""
    folder = tmp_path_factory.mktemp("whole")
    write_pairs(folder / "data")
    write_weights(folder / "base.pt", 1)
    architecture(folder)
    train(job_in(folder))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """That folder, for a test to change: where data lies belongs to the configuration, so it cannot be moved."""
    shutil.copytree(whole, tmp_path / "kept")
    yield whole
    shutil.rmtree(whole)
    shutil.copytree(tmp_path / "kept", whole)


def interrupt(folder: Path) -> None:
    """Remove what the run wrote after its third step."""
    shutil.rmtree(folder / "run" / "model")
    shutil.rmtree(folder / "run" / "checkpoints" / "step-00000006")
    (folder / "run" / "metrics.json").unlink()


def another_caption(folder: Path, job: Job) -> None:
    file = folder / "data" / "pairs.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[4]["text"] = "a picture of nothing"
    pq.write_table(pa.Table.from_pylist(rows), file)


def another_picture(folder: Path, job: Job) -> None:
    Image.new("RGB", (40, 40)).save(folder / "data" / "images" / "007.png")


def another_base(folder: Path, job: Job) -> None:
    write_weights(folder / "base.pt", 2)


def another_precision(folder: Path, job: Job) -> None:
    job["compute"]["precision"] = "bf16"


def another_loss(folder: Path, job: Job) -> None:
    job["compute"] |= {"accumulation": "micro_batch", "micro_batch": 6}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_caption, r"the data of sources\[0\] \(file\) has changed"),
        (another_picture, r"the data of sources\[0\] \(file\) has changed"),
        (another_base, "the base model is another one"),
        (another_precision, "compute.precision was fp32 and is bf16"),
        (another_loss, "compute.accumulation was cached and is micro_batch; compute.micro_batch was None and is 6"),
    ],
)
def test_what_has_changed_is_named(change: Callable[[Path, Job], None], message: str, finished: bool, folder: Path) -> None:
    job = job_in(folder)
    if not finished:
        interrupt(folder)
    before = (folder / "run" / "run.json").read_bytes()
    change(folder, job)
    with pytest.raises(RunError, match=message + ".*choose another output") as caught:
        train(job)
    line = str(caught.value)
    assert "\n" not in line and f"[{folder}/run]" in line and line.count("changed") + line.count(" is ") <= 2
    assert (folder / "run" / "run.json").read_bytes() == before


def test_where_it_is_computed_may_change(folder: Path) -> None:
    job = job_in(folder)
    interrupt(folder)
    job["compute"] |= {"micro_batch": 6, "threads": 2, "zero": 1}  # gradients of parts are cached: the loss is the whole batch's
    assert train(job).training["steps"] == 6


def test_a_mistake_before_the_first_checkpoint_is_mended_in_place(folder: Path) -> None:
    job = job_in(folder)
    shutil.rmtree(folder / "run")
    job["compute"]["precision"] = "fp16"
    with pytest.raises(ConfigError, match="use bf16 or fp32"):
        train(job)
    assert (folder / "run" / "run.json").exists()
    job["compute"]["precision"] = "fp32"
    assert train(job).training["steps"] == 6
