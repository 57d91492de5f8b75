"""Gates and verdict, against cases counted by hand and formulas written out again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fgray.config.loop import GateConfig
from fgray.errors import ConfigError, DataError
from fgray.evaluation.compare import Difference
from fgray.loop.gates import EXIT_CODES, judge, judge_all, overall
from fgray.loop.verdict import verdict
from tests.evaluation.test_compare import I2T, T2I, right, write_run


def difference(delta: float, low: float, high: float, clusters: int = 100, name: str = "m/acc") -> Difference:
    return Difference(name, "m", 0.5, 0.5 + delta, delta, (low, high), 0.5, "test", True, None, None, clusters, clusters, 1, 1, 0)


@pytest.mark.parametrize(
    ("delta", "low", "high", "outcome"),
    [
        (0.02, 0.001, 0.04, "pass"),
        (-0.005, -0.009, -0.001, "pass"),  # significantly worse, but within the margin
        (-0.05, -0.08, -0.02, "fail"),
        (-0.005, -0.02, 0.01, "inconclusive"),
        (0.05, -0.02, 0.12, "inconclusive"),
        (0.0, -0.01, 0.01, "inconclusive"),  # the bound stands on the margin: not above it
    ],
)
def test_the_interval_against_the_margin_decides(delta: float, low: float, high: float, outcome: str) -> None:
    assert judge(difference(delta, low, high), 0.01).outcome == outcome


@pytest.mark.parametrize(("delta", "half"), [(0.001, 0.03), (-0.004, 0.02), (-0.03, 0.05), (0.02, 0.2)])
def test_the_size_that_would_decide_does_and_one_less_does_not(delta: float, half: float) -> None:
    margin, clusters = 0.01, 200
    gate = judge(difference(delta, delta - half, delta + half, clusters), margin)
    assert gate.outcome == "inconclusive" and gate.needed is not None and gate.needed > clusters

    def decided(size: int) -> bool:
        shrunk = half * math.sqrt(clusters / size)
        return delta - shrunk > -margin or delta + shrunk < -margin

    assert decided(gate.needed) and not decided(gate.needed - 1)


def test_a_difference_on_the_margin_is_never_decided() -> None:
    assert judge(difference(-0.01, -0.02, 0.0), 0.01).needed is None
    assert judge(difference(0.05, 0.01, 0.09), 0.01).needed is None  # decided already


def test_patterns_name_metrics_and_the_first_counts() -> None:
    metrics = [difference(-0.03, -0.04, -0.02, name=f"zero_shot/{name}/acc1") for name in ("a", "b")]
    gates = judge_all(metrics, [GateConfig(metric="zero_shot/a/*", margin=0.05), GateConfig(metric="zero_shot/*", margin=0.01)])
    assert [(gate.metric, gate.outcome) for gate in gates] == [("zero_shot/a/acc1", "pass"), ("zero_shot/b/acc1", "fail")]
    assert overall(gates) == "fail" and overall(gates[:1]) == "pass" and overall([]) == "pass"
    with pytest.raises(ConfigError, match="names no metric .*did you mean 'zero_shot/a/acc1'"):
        judge_all(metrics, [GateConfig(metric="zero_shot/a/acc")])
    assert len(set(EXIT_CODES.values())) == 3 and EXIT_CODES["pass"] == 0


def test_holm_covers_the_primary_metrics_of_all_arms(tmp_path: Path) -> None:
    def rows(i2t: int, t2i: int) -> list[dict[str, object]]:
        return [right(f"{task}{c}", str(c), c < hits, task=task) for c in range(20) for task, hits in (("i2t", i2t), ("t2i", t2i))]

    own = [I2T.name]
    before = write_run(tmp_path / "before", rows(0, 9), (I2T, T2I), own=own)
    after = {name: write_run(tmp_path / name, rows(hits, 9), (I2T, T2I), own=own) for name, hits in (("plain", 6), ("hard", 8))}
    for run in (before, *after.values()):
        (Path(run) / "metrics.json").write_text(json.dumps({"fingerprints": {"data": {"toy": "cases A"}}}))
    found = verdict(before, after, [GateConfig(metric=T2I.name, margin=0.5)])
    plain, hard = (found["arms"][arm]["metrics"][I2T.name] for arm in ("plain", "hard"))
    assert (plain["p"], hard["p"]) == (pytest.approx(2 / 2**6), pytest.approx(2 / 2**8))
    assert (plain["p_adjusted"], hard["p_adjusted"]) == (pytest.approx(2 / 2**6), pytest.approx(2 * 2 / 2**8))
    assert (hard["before"], hard["after"], hard["delta"]) == (0, 0.4, 0.4)
    assert found["arms"]["hard"]["metrics"][T2I.name]["p_adjusted"] is None  # not primary
    assert {arm: one["overall"] for arm, one in found["arms"].items()} == {"plain": "pass", "hard": "pass"}
    assert "overall" not in found, "the subject's outcome counts, not that of all arms"

    train = tmp_path / "train"
    train.mkdir()
    (train / "run.json").write_text(json.dumps({"selection": {"toy": "cases A"}}))
    for arm in ("hard", "base"):
        with pytest.raises(DataError, match="'toy' selected the checkpoint and cannot judge it"):
            verdict(before, after, [], {arm: str(train)})
    (train / "run.json").write_text(json.dumps({"selection": {"toy": "cases B"}}))
    assert set(verdict(before, after, [], {"hard": str(train), "base": str(train)})["arms"]) == {"plain", "hard"}
