"""Damaged images of a training run: listed and counted once, over workers and restarts, and refused above the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import fgray
from fgray.config.loading import config_from_text
from fgray.errors import DataError
from tests.training.jobs import config, write_pairs

BAD = ("003", "011", "017", "024")


def damaged_pairs(folder: Path) -> dict[str, Any]:
    """Write thirty pictures, four of them cut off."""
    pairs = write_pairs(folder)
    for key in BAD:
        path = folder / "images" / f"{key}.png"
        path.write_bytes(path.read_bytes()[:200])
    return pairs


def listed(output: Path) -> list[tuple[str, str, str, str]]:
    rows = pq.read_table(output / "quarantine.parquet").to_pylist()
    assert all(row["error"].startswith("cut off: ") for row in rows)
    return [(row["benchmark"], row["key"], row["shard"], row["stage"]) for row in rows]


EXPECTED = [("file", key, f"{key}.png", "decode") for key in BAD]


def test_damaged_images_are_listed_and_counted(tmp_path: Path) -> None:
    job = config(damaged_pairs(tmp_path / "data"), tmp_path / "run", steps=4, data={"max_corrupt_fraction": 0.2})
    result = fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    assert listed(tmp_path / "run") == EXPECTED
    assert result.training["damaged_images"] == 4
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["damaged_images"] == 4
    assert "damaged images" in result.table().columns[0]._cells
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    counts = [row["damaged_images"] for row in rows]
    assert counts == sorted(counts) and 0 < counts[0] <= counts[-1] == 4


def test_a_run_without_damage_lists_nothing(tmp_path: Path) -> None:
    job = config(write_pairs(tmp_path / "data"), tmp_path / "run", steps=1)
    result = fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    assert result.training["damaged_images"] == 0
    assert listed(tmp_path / "run") == []


def test_too_much_damage_is_refused_and_goes_on_once_it_is_allowed(tmp_path: Path) -> None:
    job = config(damaged_pairs(tmp_path / "data"), tmp_path / "run", steps=4, checkpoints={"every_steps": 1, "keep": 1})
    message = r"4 of 30 training images cannot be decoded, more than data.max_corrupt_fraction = 0.1 allows \[.*run/quarantine.parquet\]"
    with pytest.raises(DataError, match=message) as caught:
        fgray.train(config_from_text(json.dumps({**job, "data": {"max_corrupt_fraction": 0.1}}), "job.yaml"))
    assert "\n" not in str(caught.value)
    assert listed(tmp_path / "run") == EXPECTED
    result = fgray.train(config_from_text(json.dumps({**job, "data": {"max_corrupt_fraction": 0.2}}), "job.yaml"))
    assert result.training["steps"] == 4 and result.training["damaged_images"] == 4


def test_a_resumed_run_keeps_count(tmp_path: Path) -> None:
    """One step is left, which meets none or a part of the damaged images."""
    options = {"steps": 7, "batch_size": 6, "checkpoints": {"every_steps": 1, "keep": 7}, "data": {"max_corrupt_fraction": 0.2}}
    job = config_from_text(json.dumps(config(damaged_pairs(tmp_path / "data"), tmp_path / "run", **options)), "job.yaml")
    whole = fgray.train(job)
    facts = [json.loads((tmp_path / f"run/checkpoints/step-{step:08}/state.json").read_text())["facts"] for step in range(1, 8)]
    counts = [len(fact["damaged"]) for fact in facts]
    assert counts[0] < counts[5] == counts[6] == 4
    for file in ("checkpoints/step-00000007/state.json", "metrics.json", "quarantine.parquet"):
        (tmp_path / "run" / file).unlink()
    again = fgray.train(job)
    assert listed(tmp_path / "run") == EXPECTED
    assert again.training == whole.training and again.training["damaged_images"] == 4
