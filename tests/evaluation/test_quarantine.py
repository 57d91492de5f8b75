"""Texts that a model cannot embed: listed, counted, and kept out of the prototypes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fgray.config.schema import EvalJob
from fgray.errors import RunError
from fgray.evaluation import evaluate
from tests.benchmarks.layouts import BLUE, RED, ColourEncoder, solid


class PoisonedEncoder(ColourEncoder):
    """Runs out of memory on one prompt, as a worker might that dies of it again and again."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        if any("poison blue" in text for text in texts):
            raise MemoryError("no room")
        return super().embed_texts(texts)


def job_of(root: Path, tolerated: float, templates: list[str]) -> EvalJob:
    for name, colour in {"red/0": RED, "red/1": RED, "blue/0": BLUE, "green/0": (0, 255, 0)}.items():
        solid(root / f"data/{name}.png", colour)
    benchmark = {"name": "zero_shot", "root": str(root / "data"), "dataset": "colours", "templates": templates}
    return EvalJob.model_validate(
        {
            "job": "eval",
            "name": "t",
            "output": str(root / "run"),
            "model": {"kind": "python", "path": "tests.evaluation.test_quarantine:PoisonedEncoder"},
            "data": {"max_corrupt_fraction": tolerated},
            "benchmarks": [benchmark],
            "compute": {"runner": "serial", "batch_size": 4, "device": "cpu"},
            "stats": {"resamples": 100},
        }
    )


@pytest.mark.parametrize("templates", [["poison {c}"], ["poison {c}", "{c}"]])
def test_a_class_with_an_unembedded_prompt_has_no_prototype(tmp_path: Path, templates: list[str]) -> None:
    result = evaluate(job_of(tmp_path, 0.5, templates))
    rows = {row["query"]: row for row in pq.read_table(tmp_path / "run/samples.parquet").to_pylist()}
    assert rows["blue/0"]["excluded"] == "right candidate: worker: out of memory: no room"
    for query in ("red/0", "red/1", "green/0"):
        assert rows[query]["excluded"] is None
        assert rows[query]["num_candidates"] == 2 and 0 not in rows[query]["shown"], "blue, the first class, is no candidate"
    assert (result.metrics["zero_shot/colours/acc1"]["correct"], result.metrics["zero_shot/colours/acc1"]["excluded"]) == (3, 1)


def test_an_unembedded_text_is_in_the_list_that_the_error_names(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"1 of 6 items cannot be computed.*quarantine\.parquet"):
        evaluate(job_of(tmp_path, 0.0, ["poison {c}"]))
    (row,) = pq.read_table(tmp_path / "run/quarantine.parquet").to_pylist()
    assert (row["key"], row["shard"], row["stage"], row["error"]) == ("poison blue", "", "worker", "out of memory: no room")


def test_scored_and_quarantined_make_the_requested(tmp_path: Path) -> None:
    evaluate(job_of(tmp_path, 0.5, ["poison {c}", "{c}"]))
    items = json.loads((tmp_path / "run/run.json").read_text())["items"]
    listed = pq.read_table(tmp_path / "run/quarantine.parquet").num_rows
    assert (items["requested"], items["scored"], items["quarantined"]) == (9, 8, 1) and listed == 1
