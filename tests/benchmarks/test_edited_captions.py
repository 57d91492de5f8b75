"""A file of text negatives read as a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fgray.benchmarks.base import open_benchmark
from fgray.config.schema import BenchmarkConfig, EvalJob
from fgray.errors import DataError
from fgray.evaluation import evaluate
from fgray.runs import RunFolder
from tests.training.small_sources import write_negatives, write_pairs

CAPTIONS = {"a": ["a red dog", "a dog that runs"], "b": ["a blue cat"], "c": ["a blue cat", "a cat that sits"]}
EDITS = {
    "a red dog": [("a red cat", "noun", True), ("a dog that runs", "noun", True), ("a blue dog", "colour", True), ("###", "colour", False)],
    "a blue cat": [("a red cat", "colour", True)],
    "of no picture": [("of a picture", "noun", True)],
}


def files(folder: Path, edits: dict[str, list[tuple[str, str, bool]]]) -> dict[str, Any]:
    """Write pictures, captions and negatives, and return the section that names them."""
    negatives = write_negatives(folder / "negatives.parquet", [("text_edit", anchor, None, rows) for anchor, rows in edits.items()])
    return {"name": "edited_captions", "negatives": negatives, "pairs": write_pairs(folder, CAPTIONS)}


def test_every_picture_is_asked_about_each_of_its_captions(tmp_path: Path) -> None:
    loaded = open_benchmark(BenchmarkConfig.model_validate(files(tmp_path, EDITS)), None, str(tmp_path / "cache"))
    asked = {(row["query"], *row["candidates"], row["subset"]) for row in loaded.cases.table.to_pylist()}
    assert asked == {
        ("a", "a red dog", "a red cat", "noun"),  # "a dog that runs" is right of a, too
        ("a", "a red dog", "a blue dog", "colour"),
        ("b", "a blue cat", "a red cat", "colour"),
        ("c", "a blue cat", "a red cat", "colour"),
    }
    assert set(loaded.cases.table["labels"].to_pylist()[0]) == {0}
    assert [metric.name for metric in loaded.metrics] == [f"edited_captions/{name}/accuracy" for name in ("colour", "noun", "all")]


def test_it_is_evaluated_like_any_other(tmp_path: Path) -> None:
    job = EvalJob.model_validate(
        {
            "job": "eval",
            "name": "edits",
            "model": {"kind": "tiny"},
            "benchmarks": [files(tmp_path, EDITS)],
            "compute": {"runner": "serial"},
            "output": str(tmp_path / "run"),
        }
    )
    evaluate(job)
    metrics = RunFolder(str(tmp_path / "run")).read_json(RunFolder.METRICS)["metrics"]
    counts = {name: entry["count"] for name, entry in metrics.items()}
    assert counts == {"edited_captions/colour/accuracy": 3, "edited_captions/noun/accuracy": 1, "edited_captions/all/accuracy": 4}
    assert metrics["edited_captions/all/accuracy"]["chance"] == 0.5


def test_negatives_of_other_captions_are_refused(tmp_path: Path) -> None:
    section = files(tmp_path, {"of no picture": EDITS["of no picture"]})
    with pytest.raises(DataError, match="no caption of the pairs has a negative"):
        open_benchmark(BenchmarkConfig.model_validate(section), None, str(tmp_path / "cache"))
