"""Damaged images with several workers: each number of them counts the same images, takes the same pairs and gives the same verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fgray.config.train import TrainClipJob
from fgray.errors import DataError
from fgray.training.worker import train_worker
from tests.training.grouped import run_group
from tests.training.jobs import config
from tests.training.test_damage import BAD, damaged_pairs


def train(job: dict[str, Any]) -> str:
    """Train as one worker of the group; return what it ends with."""
    try:
        train_worker(TrainClipJob.model_validate(job), "cpu")
    except DataError as error:
        return error.what
    return "done"


def test_workers_agree_on_damage(tmp_path: Path) -> None:
    pairs = damaged_pairs(tmp_path / "data")
    losses = {}
    for world in (1, 2):
        output = tmp_path / f"run{world}"
        job = config(pairs, output, steps=3, data={"max_corrupt_fraction": 0.2})
        assert run_group(train, world, tmp_path / f"group{world}", job) == ["done"] * world
        facts = json.loads((output / "checkpoints" / "step-00000003" / "state.json").read_text())["facts"]
        assert [image["key"] for image in facts["damaged"]] == list(BAD)
        rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
        losses[world] = [(row["damaged_images"], row["loss"]) for row in rows]
    assert [row[0] for row in losses[2]] == [row[0] for row in losses[1]]
    assert [row[1] for row in losses[2]] == pytest.approx([row[1] for row in losses[1]], rel=1e-3)  # sums in another order
    job = config(pairs, tmp_path / "refused", steps=3, data={"max_corrupt_fraction": 0.1})
    ends = run_group(train, 2, tmp_path / "group", job)
    assert ends == ["4 of 30 training images cannot be decoded, more than data.max_corrupt_fraction = 0.1 allows"] * 2
    assert pq.read_table(tmp_path / "refused" / "quarantine.parquet")["key"].to_pylist() == list(BAD)
