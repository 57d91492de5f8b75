from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats as reference

from fgray import verbs
from fgray.config.schema import StatsConfig
from fgray.errors import DataError, NotFound
from fgray.evaluation.compare import Comparison, compare_runs
from fgray.metrics.spec import AnyMetric, Macro, Metric, to_dict
from fgray.runs import RunFolder
from tests.benchmarks.layouts import noise, run, write_spec
from tests.metrics.make import right, sample, table

STATS = StatsConfig(resamples=2000)
I2T, T2I = Metric("toy/s/i2t_accuracy", "s", "i2t"), Metric("toy/s/t2i_accuracy", "s", "t2i")
BOTH = Macro("toy/s/accuracy", (I2T.name, T2I.name))


def write_run(
    folder: Path, rows: Sequence[dict[str, Any]], metrics: Sequence[AnyMetric] = (I2T,), named: Sequence[str] = (), own: Sequence[str] = ()
) -> str:
    run = RunFolder(str(folder))
    facts = {"metrics": [to_dict(metric) for metric in metrics], "primary": list(own)}
    run.write_json(
        RunFolder.RUN, {"name": folder.name, "model": {"card": {"name": "a model"}}, "primary": list(named), "benchmarks": {"toy": facts}}
    )
    run.write_json(RunFolder.METRICS, {"fingerprints": {}, "metrics": {}, "controls": {}})
    run.write_table(RunFolder.SAMPLES, table(sorted(rows, key=lambda row: (row["subset"], row["task"], row["case_id"]))))
    return str(folder)


def compare(folder: Path, a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], *metrics: AnyMetric, **names: Any) -> Comparison:
    return compare_runs(
        write_run(folder / "a", a, metrics or (I2T,), **names), write_run(folder / "b", b, metrics or (I2T,), **names), STATS
    )


def test_independent_cases_by_hand(tmp_path: Path) -> None:
    # Of 60 cases both know 30 and miss 14; B gains 12 and loses 4.
    before = [True] * 30 + [False] * 14 + [False] * 12 + [True] * 4
    after = [True] * 30 + [False] * 14 + [True] * 12 + [False] * 4
    a, b = ([right(f"{i:02}", f"c{i}", hit) for i, hit in enumerate(hits)] for hits in (before, after))
    result = compare(tmp_path, a, b)
    [item] = result.metrics
    assert (item.value_a, item.value_b) == (34 / 60, 42 / 60)
    assert item.difference == pytest.approx(8 / 60)
    assert (item.gained, item.lost, item.count, item.clusters, item.unpaired) == (12, 4, 60, 60, 0)
    assert item.test == "mcnemar exact"
    assert item.p_value == pytest.approx(reference.binomtest(4, 16).pvalue)
    assert item.interval[0] < 8 / 60 < item.interval[1]
    assert item.detectable is not None and 0.1 < item.detectable < 0.3
    assert (item.primary, item.p_holm) == (False, None)
    assert [flip["case_id"] for flip in result.flips] == [f"{i:02}" for i in range(44, 60)]
    assert [flip["direction"] for flip in result.flips] == ["gained"] * 12 + ["lost"] * 4


def test_a_flip_tells_what_was_asked_and_answered(tmp_path: Path) -> None:
    a = [sample("x", "c", [0.1, 0.9, 0.3], [2]), right("y", "d", True)]
    b = [sample("x", "c", [0.1, 0.2, 0.3], [2]), right("y", "d", True)]
    [flip] = compare(tmp_path, a, b).flips
    assert {name: flip[name] for name in ("subset", "task", "case_id", "query_kind", "query", "metric")} == {
        "subset": "s", "task": "i2t", "case_id": "x", "query_kind": "image", "query": "image of x", "metric": I2T.name,
    }  # fmt: skip
    assert (flip["predicted_a"], flip["predicted_b"], flip["right"]) == ("text 1 of x", "text 2 of x", ["text 2 of x"])
    assert (flip["direction"], flip["hit_a"], flip["hit_b"], flip["prediction_a"], flip["prediction_b"]) == ("gained", 0, 1, 1, 2)


def test_clusters_flip_as_one(tmp_path: Path) -> None:
    # Six clusters of two cases; all changed clusters gain both cases, so the sign patterns of the clusters decide.
    a = [right(f"{c}{i}", str(c), False) for c in range(6) for i in range(2)]
    b = [right(f"{c}{i}", str(c), c < 4) for c in range(6) for i in range(2)]
    [item] = compare(tmp_path, a, b).metrics
    assert item.test == "sign flip exact"
    assert item.p_value == 2 / 2**4  # McNemar on the cases would say 2 / 2^8


def test_macro_flips_both_tasks_of_a_cluster_together(tmp_path: Path) -> None:
    a = [right(f"{task}{c}", str(c), False, task=task) for c in range(8) for task in ("i2t", "t2i")]
    b = [right(f"{task}{c}", str(c), c < 5, task=task) for c in range(8) for task in ("i2t", "t2i")]
    items = {item.name: item for item in compare(tmp_path, a, b, I2T, T2I, BOTH).metrics}
    assert items[BOTH.name].p_value == 2 / 2**5
    assert items[BOTH.name].difference == 5 / 8
    assert items[BOTH.name].clusters == 8
    assert items[BOTH.name].interval[0] < 5 / 8 < items[BOTH.name].interval[1]
    assert items[I2T.name].test == "mcnemar exact"


def test_parts_of_a_macro_flip_with_their_weights(tmp_path: Path) -> None:
    # i2t weighs 3/4 (alone and within the inner mean), t2i 1/4; i2t gains in two clusters, t2i loses in three others.
    a = [right(f"{task}{c}", str(c), task == "t2i", task=task) for c in range(8) for task in ("i2t", "t2i")]
    b = [right(f"{task}{c}", str(c), c < 2 if task == "i2t" else c < 5, task=task) for c in range(8) for task in ("i2t", "t2i")]
    item = compare(tmp_path, a, b, I2T, T2I, BOTH, Macro("toy/outer", (BOTH.name, I2T.name))).metrics[-1]
    changes = [3, 3, -1, -1, -1]
    patterns = [sum(s * c for s, c in zip(signs, changes, strict=True)) for signs in itertools.product([1, -1], repeat=5)]
    assert item.p_value == sum(abs(value) >= 3 for value in patterns) / 32
    assert item.difference == pytest.approx(3 / 4 * 2 / 8 - 1 / 4 * 3 / 8)


def test_holm_covers_the_primary_metrics_and_only_them(tmp_path: Path) -> None:
    a = [right(f"{task}{c}", str(c), False, task=task) for c in range(20) for task in ("i2t", "t2i")]
    b = [right(f"{task}{c}", str(c), c < (8 if task == "i2t" else 6), task=task) for c in range(20) for task in ("i2t", "t2i")]
    items = {item.name: item for item in compare(tmp_path / "own", a, b, I2T, T2I, BOTH, own=[I2T.name, T2I.name]).metrics}
    assert items[I2T.name].p_holm == pytest.approx(2 * 2 / 2**8)  # the smaller of two
    assert items[T2I.name].p_holm == pytest.approx(2 / 2**6)
    assert items[BOTH.name].p_holm is None and not items[BOTH.name].primary
    named = compare(tmp_path / "named", a, b, I2T, T2I, BOTH, own=[I2T.name, T2I.name], named=[BOTH.name]).metrics
    assert [item.name for item in named if item.primary] == [BOTH.name]
    with pytest.raises(DataError, match="primary metric 'toy/s/acuracy' is in neither run .*did you mean 'toy/s/accuracy'"):
        compare(tmp_path / "wrong", a, b, I2T, T2I, BOTH, named=["toy/s/acuracy"])


def test_equal_runs_differ_in_nothing(tmp_path: Path) -> None:
    rows = [right(f"{task}{c}", str(c), c % 3 > 0, task=task) for c in range(30) for task in ("i2t", "t2i")]
    result = compare(tmp_path, rows, rows, I2T, T2I, BOTH)
    assert result.flips == []
    for item in result.metrics:
        assert (item.difference, item.p_value, item.gained, item.lost) == (0, 1, 0, 0)
        assert item.interval[0] < 0 < item.interval[1]


def test_swapping_the_runs_mirrors_the_result(tmp_path: Path) -> None:
    draw = random.Random(2)
    a, b = ([right(f"{c}{i}", str(c), draw.random() < p) for c in range(40) for i in range(3)] for p in (0.5, 0.7))
    [there], [back] = compare(tmp_path / "ab", a, b).metrics, compare(tmp_path / "ba", b, a).metrics
    assert there.test == "sign flip monte-carlo"
    assert back.p_value == there.p_value
    assert (back.difference, *back.interval) == pytest.approx((-there.difference, -there.interval[1], -there.interval[0]))


def test_cases_that_one_run_could_not_score_are_left_out_and_counted(tmp_path: Path) -> None:
    a = [right("1", "a", True), right("2", "b", False), right("3", "c", False)]
    b = [right("1", "a", True), right("2", "b", True), {**sample("3", "c", None), "labels": [0]}]
    [item] = compare(tmp_path, a, b).metrics
    assert (item.count, item.unpaired, item.value_a, item.value_b) == (2, 1, 0.5, 1)


def test_the_comparison_is_json_and_reproducible(tmp_path: Path) -> None:
    draw = random.Random(4)
    a, b = ([right(f"{t}{c}", str(c // 2), draw.random() < 0.6, task=t) for c in range(60) for t in ("i2t", "t2i")] for _ in range(2))
    first = compare(tmp_path / "x", a, b, I2T, T2I, BOTH).to_dict()
    again = compare(tmp_path / "x", a[::-1], b[::-1], I2T, T2I, BOTH).to_dict()
    assert json.dumps(first, allow_nan=False) == json.dumps(again, allow_nan=False)
    assert {"name", "interval", "p_value", "p_holm", "detectable"} <= set(first["metrics"][0])


def test_metrics_of_one_run_only_are_listed(tmp_path: Path) -> None:
    rows = [right(f"{task}{c}", str(c), c > 1, task=task) for c in range(4) for task in ("i2t", "t2i")]
    result = compare_runs(write_run(tmp_path / "a", rows, [I2T, T2I]), write_run(tmp_path / "b", rows, [I2T]), STATS)
    assert [item.name for item in result.metrics] == [I2T.name]
    assert result.not_compared == {"a": [T2I.name], "b": []}


def test_runs_on_other_images_under_the_same_names_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_spec(data, {"existence": 2}, sets=2)
    benchmark = {"name": "spec", "root": str(data), "subsets": ["existence"]}
    for name, seed in (("a", 0), ("b", 1)):
        run(tmp_path / name, [benchmark], {"kind": "tiny", "seed": seed})
    assert len(compare_runs(str(tmp_path / "a"), str(tmp_path / "b"), STATS).metrics) == 3
    noise(data / "existence/images/001_0.png", 77)
    run(tmp_path / "c", [benchmark], {"kind": "tiny"})
    with pytest.raises(DataError, match="different images under the same keys .spec.: evaluate both on the same data"):
        compare_runs(str(tmp_path / "a"), str(tmp_path / "c"), STATS)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    rows = [right(str(c), str(c), True) for c in range(5)]
    whole = write_run(tmp_path / "whole", rows)
    with pytest.raises(DataError, match="different cases: 5 in A, 3 in B, 3 in both .toy.: evaluate both on the same data"):
        compare_runs(whole, write_run(tmp_path / "part", rows[:3]), STATS)
    with pytest.raises(DataError, match="disagree about a case's query .toy, s, i2t, 0"):
        compare_runs(whole, write_run(tmp_path / "other", [{**rows[0], "query": "another"}, *rows[1:]]), STATS)
    with pytest.raises(DataError, match="disagree about a case's candidates .toy, s, i2t, 4"):
        compare_runs(whole, write_run(tmp_path / "texts", [*rows[:4], {**rows[4], "candidates": ["text", "another"]}]), STATS)
    with pytest.raises(DataError, match="define 'toy/s/i2t_accuracy' differently"):
        compare_runs(whole, write_run(tmp_path / "ties", rows, [Metric(I2T.name, "s", "i2t", ties="first")]), STATS)
    with pytest.raises(DataError, match="share no metric"):
        compare_runs(whole, write_run(tmp_path / "names", rows, [Metric("toy/s/acc", "s", "i2t")]), STATS)
    with pytest.raises(NotFound):
        compare_runs(whole, str(tmp_path / "nowhere"), STATS)
    run = RunFolder(str(tmp_path / "elsewhere"))
    run.write_json(RunFolder.RUN, {"name": "x", "model": {"card": {"name": "m"}}, "benchmarks": {}})
    run.write_table(RunFolder.SAMPLES, table(rows))
    with pytest.raises(DataError, match="share no benchmark"):
        compare_runs(whole, run.uri, STATS)


def test_the_settings_of_the_runs_are_used(tmp_path: Path) -> None:
    a, b = ([right(f"{i:02}", f"c{i}", hit) for i, hit in enumerate(hits)] for hits in ([True, False] * 20, [True] * 30 + [False] * 10))
    write_run(tmp_path / "a", a)
    write_run(tmp_path / "b", b)
    plain = verbs.compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert plain.level == 0.95
    given = {"level": 0.8, "resamples": 400, "seed": 3}
    for side, stats in (("a", given), ("b", {**given, "seed": 4})):
        run = RunFolder(str(tmp_path / side))
        run.write_json(RunFolder.RUN, {**run.read_json(RunFolder.RUN), "stats": stats})
    result = verbs.compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert result.level == 0.8
    assert result.to_dict() == compare_runs(str(tmp_path / "a"), str(tmp_path / "b"), StatsConfig(**given)).to_dict()
    assert plain.metrics[0].interval[0] < result.metrics[0].interval[0] < result.metrics[0].interval[1] < plain.metrics[0].interval[1]
    run.write_json(RunFolder.RUN, {**run.read_json(RunFolder.RUN), "stats": {**given, "level": 0.9}})
    with pytest.raises(DataError, match="levels differ: 0.8 and 0.9 .*the same stats.level"):
        verbs.compare(str(tmp_path / "a"), str(tmp_path / "b"))
    run.write_json(RunFolder.RUN, {**run.read_json(RunFolder.RUN), "stats": {"level": 2}})
    with pytest.raises(DataError, match="'stats' is not what a run writes .*less than 1.*run the job again"):
        verbs.compare(str(tmp_path / "a"), str(tmp_path / "b"))
