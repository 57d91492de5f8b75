"""Sums in buckets against the summary that holds every cluster in memory."""

import numpy as np
import pyarrow as pa
import pytest

from fgray.config.schema import StatsConfig
from fgray.errors import DataError
from fgray.evaluation import clusters as clusters_module
from fgray.evaluation import large, reduce
from fgray.evaluation.clusters import bucket_of
from fgray.evaluation.large import LargeSummary
from fgray.evaluation.reduce import Reducer
from fgray.metrics.spec import Macro, Metric, Pooled
from fgray.metrics.summary import summarise
from fgray.runs import SAMPLE_SCHEMA

METRICS = [
    Metric("a/acc", "a", "t"),
    Metric("a/expected", "a", "t", ties="expected"),
    Metric("a/top2", "a", "t", k=2),
    Metric("a/recall", "a", "t", per_category=True),
    Metric("b/acc", "b", "t"),
    Metric("c/acc", "c", "t"),
    Macro("macro", ("a/acc", "b/acc", "c/acc")),
    Pooled("pooled", ("a/acc", "b/acc")),
    Macro("nested", ("pooled", "a/recall", "a/acc")),
]
PLAIN = ["a/acc", "a/expected", "a/top2", "b/acc", "c/acc", "pooled"]


def samples_of(rows: int, clusters: int, seed: int = 0, right: bool = False) -> pa.Table:
    random = np.random.default_rng(seed)
    subset = random.choice(["a", "b", "c"], rows)
    cluster = random.integers(0, clusters, rows)
    hard = random.random(clusters)[cluster] < random.random(rows)
    greater = np.where(hard & (not right), random.integers(0, 3, rows), 0)
    tied = np.where(random.random(rows) < (0 if right else 0.2), random.integers(0, 3, rows), 0)
    excluded = random.random(rows) < 0.02
    counts = {
        "greater": greater,
        "tied": tied,
        "tied_before": tied // 2,
        "tied_positives": np.ones(rows, int),
        "prediction": np.zeros(rows, int),
    }
    table = {
        "benchmark": ["x"] * rows,
        "subset": subset.tolist(),
        "task": ["t"] * rows,
        "case_id": [str(n) for n in range(rows)],
        # a and b share clusters, c has its own
        "cluster_id": [f"{'c' if s == 'c' else 'ab'}é{n}" for s, n in zip(subset, cluster, strict=True)],
        "category": [f"g{n}" for n in cluster % 5],
        "query_kind": ["image"] * rows,
        "query": ["q"] * rows,
        "candidate_kind": ["text"] * rows,
        "pool": [None] * rows,
        "shown": [[0]] * rows,
        "candidates": [["x"]] * rows,
        "scores": [[0.0]] * rows,
        "labels": [[0]] * rows,
        "num_candidates": (random.integers(5, 8, rows)).tolist(),
        "num_positives": [1] * rows,
        **{name: [None if out else int(n) for n, out in zip(values, excluded, strict=True)] for name, values in counts.items()},
        "margin": np.where(random.random(rows) < 0.1, 1e-6, 0.5).tolist(),
        "excluded": ["query: damaged" if out else None for out in excluded],
    }
    return pa.table({name: table[name] for name in SAMPLE_SCHEMA.names}, SAMPLE_SCHEMA)


def flat(entry: dict) -> dict[str, float]:
    """Return an entry with its interval's ends beside the other numbers."""
    low, high = entry["ci95"]
    return {**{name: value for name, value in entry.items() if name != "ci95"}, "low": low, "high": high}


def reduce_in_slices(samples: pa.Table, stats: StatsConfig, rows: int) -> dict:
    summary = LargeSummary(METRICS, stats)
    for start in reversed(range(0, samples.num_rows, rows)):
        summary.add(samples.slice(start, rows))
    return summary.entries()


@pytest.mark.parametrize(("rows", "clusters"), [(3000, 700), (900, 3)])
def test_plain_means_are_equal_and_averages_agree(monkeypatch, rows: int, clusters: int) -> None:
    monkeypatch.setattr(clusters_module, "PIECE", 512)
    stats = StatsConfig(resamples=4000)
    samples = samples_of(rows, clusters)
    expected = summarise(samples, METRICS, stats)
    found = reduce_in_slices(samples, stats, 250)
    for name in PLAIN:
        assert flat(found[name]) == pytest.approx(flat(expected[name]), rel=1e-12), name
        assert {key: found[name][key] for key in ("value", "count", "correct", "ties")} == {
            key: expected[name][key] for key in ("value", "count", "correct", "ties")
        }
    for name in ("a/recall", "macro", "nested"):
        ends, others = found[name].pop("ci95"), expected[name].pop("ci95")
        assert found[name] == pytest.approx(expected[name], rel=1e-12), name
        assert ends == pytest.approx(others, abs=0.12 * (others[1] - others[0])), name


def test_slices_and_their_order_change_nothing() -> None:
    stats, samples = StatsConfig(resamples=200), samples_of(1000, 100)
    assert reduce_in_slices(samples, stats, 100) == reduce_in_slices(samples, stats, 333)


def test_means_without_variation_have_intervals_of_their_parts() -> None:
    stats, samples = StatsConfig(resamples=100), samples_of(500, 50, right=True)
    expected, found = summarise(samples, METRICS, stats), reduce_in_slices(samples, stats, 100)
    for name in (metric.name for metric in METRICS):
        assert flat(found[name]) == pytest.approx(flat(expected[name]), rel=1e-9), name


def test_many_different_influences_are_rounded_together(monkeypatch) -> None:
    samples, stats = samples_of(3000, 700), StatsConfig(resamples=2000)
    exact = reduce_in_slices(samples, stats, 1000)["a/recall"]["ci95"]
    monkeypatch.setattr(large, "GROUPS", 64)
    assert reduce_in_slices(samples, stats, 1000)["a/recall"]["ci95"] == pytest.approx(exact, abs=0.1 * (exact[1] - exact[0]))


def test_a_metric_without_samples_is_refused() -> None:
    summary = LargeSummary([*METRICS, Metric("d/acc", "d", "t")], StatsConfig())
    summary.add(samples_of(100, 10))
    with pytest.raises(DataError, match="no sample to score"):
        summary.check()


def test_equal_strings_share_a_bucket_and_others_spread() -> None:
    names = pa.array([f"image-{n:07d}" for n in range(20_000)] + ["", "ü", "x" * 300])
    buckets = bucket_of(names)
    assert np.array_equal(bucket_of(names.slice(500, 100)), buckets[500:600])
    counts = np.bincount(buckets, minlength=256)
    assert counts.min() > 20 and counts.max() < 200


def test_beyond_a_number_of_rows_samples_are_let_go(monkeypatch) -> None:
    monkeypatch.setattr(reduce, "HELD_ROWS", 400)

    class Loaded:
        metrics, controls, shuffled_control = METRICS, {}, False

    stats, samples = StatsConfig(resamples=100), samples_of(1000, 100)
    reducer = Reducer(Loaded(), stats)  # type: ignore[arg-type]
    assert sum(part.num_rows for part in reducer.watch(samples.slice(start, 100) for start in range(0, 1000, 100))) == 1000
    assert reducer.large is not None and sum(table.num_rows for table in reducer.held) <= 400
    reducer.check()
    assert reducer.metrics() == reduce_in_slices(samples, stats, 1000)


@pytest.mark.parametrize("alone", [["c"], ["b", "c"], ["a", "b", "c"]])
def test_subsets_of_a_single_cluster_are_drawn_with_others(alone: list[str]) -> None:
    """A stratum of one cluster shows no variation by itself: intervals would be too narrow."""
    samples = samples_of(600, 200)
    names = [
        subset if subset in alone else f"{subset}{number}"
        for subset, number in zip(samples["subset"].to_pylist(), samples["cluster_id"].to_pylist(), strict=True)
    ]
    samples = samples.set_column(samples.column_names.index("cluster_id"), "cluster_id", pa.array(names))
    stats = StatsConfig(resamples=20_000)
    ours, whole = reduce_in_slices(samples, stats, 100)["macro"], summarise(samples, METRICS, stats)["macro"]
    width = whole["ci95"][1] - whole["ci95"][0]
    assert ours["ci95"] == pytest.approx(whole["ci95"], abs=0.03 * width)
