"""Do two runs on the same cases differ? Paired tests and intervals per metric, and the cases that changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fgray.config.schema import StatsConfig
from fgray.errors import DataError
from fgray.evaluation.pairing import Pair, RunData, paired_samples, primary_metrics, shared_metrics, shared_stats
from fgray.metrics.intervals import Interval, Leaves, Resampler, average_intervals, influences
from fgray.metrics.paired import detectable_effect, holm, mcnemar_test, paired_interval, sign_flip_test
from fgray.metrics.ranking import hit_at_k
from fgray.metrics.spec import AnyMetric, Metric
from fgray.metrics.states import ClusterSums
from fgray.metrics.summary import Tree, build_trees

_RANKS = ("greater", "tied", "tied_before", "tied_positives")


@dataclass(frozen=True)
class Difference:
    """One metric in both runs, on the cases that both scored.

    Attributes:
        name, benchmark: which metric.
        value_a, value_b: its values.
        difference: value_b - value_a.
        interval: confidence interval of the difference.
        p_value: two-sided, uncorrected.
        test: "mcnemar exact", "sign flip exact" or "sign flip monte-carlo".
        primary: is among the metrics that Holm's correction covers.
        p_holm: p value after Holm's correction; None for a metric that is not primary (its p value stands uncorrected).
        detectable: smallest true difference that this many clusters show with 80 % power; None for too few clusters.
        count, clusters: cases and clusters that both runs scored.
        gained, lost: sum of the hits that B has and A has not, and the reverse.
        unpaired: cases left out because one run could not score them.
    """

    name: str
    benchmark: str
    value_a: float
    value_b: float
    difference: float
    interval: Interval
    p_value: float
    test: str
    primary: bool
    p_holm: float | None
    detectable: float | None
    count: int
    clusters: int
    gained: float
    lost: float
    unpaired: int


@dataclass(frozen=True)
class Comparison:
    """What two runs differ in.

    Attributes:
        runs: "a" and "b" -> {"uri", "name", "model"}.
        level: confidence level of the intervals.
        metrics: differences, in the order of the benchmarks' reports.
        flips: cases whose hit changed, sorted by benchmark, subset, task, case id; for each subset and task at the smallest k.
        not_compared: "a" and "b" -> metrics that only this run has.
    """

    runs: dict[str, dict[str, str]]
    level: float
    metrics: list[Difference]
    flips: list[dict[str, Any]]
    not_compared: dict[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values: intervals as lists under ``interval``."""
        metrics = [{**asdict(item), "interval": list(item.interval)} for item in self.metrics]
        return {"runs": self.runs, "level": self.level, "metrics": metrics, "flips": self.flips, "not_compared": self.not_compared}


def compare_runs(run_a: str, run_b: str, stats: StatsConfig | None = None) -> Comparison:
    """Compare two run folders.

    Every metric gets a paired cluster sign-flip test (McNemar's exact test where every cluster has one case). Holm's
    correction covers the metrics that either run names under ``primary``, else those that their benchmarks name.

    Args:
        run_a: URI of the run folder compared with.
        run_b: URI of the run folder whose gain is asked.
        stats: level, resamples and seed; None: those of run A, which has the level of run B.

    Returns:
        The comparison, on the benchmarks that both runs have.

    Raises:
        NotFound: a run folder lacks a file.
        DataError: no metric is shared, a shared benchmark has other cases in one run, or a metric is defined differently;
            without `stats`, also where the levels of the runs differ.
    """
    runs = {side: RunData(uri) for side, uri in (("a", run_a), ("b", run_b))}
    first, second = runs["a"], runs["b"]
    stats = shared_stats(first, second) if stats is None else stats
    shared = [name for name in first.definitions if name in second.definitions]
    if not shared:
        raise DataError("the runs share no benchmark", where=f"{first.uri}, {second.uri}", fix="evaluate both on the same benchmarks")
    primary = primary_metrics(first, second)
    differences: list[Difference] = []
    flips: list[dict[str, Any]] = []
    compared: set[str] = set()
    for benchmark in shared:
        metrics = shared_metrics(benchmark, first, second)
        pair = paired_samples(benchmark, first, second)
        differences += _differences(benchmark, metrics, pair, primary, stats)
        flips += _flips(benchmark, metrics, pair)
        compared.update(metric.name for metric in metrics)
    if not differences:
        raise DataError("the runs share no metric", where=f"{first.uri}, {second.uri}", fix="evaluate both on the same subsets")
    corrected = holm({item.name: item.p_value for item in differences if item.primary})
    differences = [Difference(**{**vars(item), "p_holm": corrected.get(item.name)}) for item in differences]
    described = {side: {"uri": run.uri, "name": run.name, "model": run.model} for side, run in runs.items()}
    alone = {side: [name for name in run.metric_names() if name not in compared] for side, run in runs.items()}
    return Comparison(described, stats.level, differences, flips, alone)


def _differences(benchmark: str, metrics: list[AnyMetric], pair: Pair, primary: set[str], stats: StatsConfig) -> list[Difference]:
    trees_a, trees_b = build_trees(pair.a, metrics), build_trees(pair.b, metrics)
    leaves = {name: _leaf_differences(trees_a[name], trees_b[name]) for name in trees_a}
    resampler = Resampler.of(pair.a, stats)
    averaged = average_intervals({name: parts for name, parts in leaves.items() if len(parts) > 1}, resampler, stats.level)
    known = {metric.name: metric for metric in metrics}
    found = []
    for name, parts in leaves.items():
        # Each sample once per part that covers it, as its weight in the count.
        bases = _base_metrics(known[name], known)
        changes = [_hits(pair.b, base) - _hits(pair.a, base) for base in bases]
        gained = math.fsum(math.fsum(change[change > 0]) for change in changes)
        lost = math.fsum(math.fsum(-change[change < 0]) for change in changes)  # no minus zero
        contributions = _contributions(parts)
        if len(parts) == 1:
            interval, error = paired_interval(parts[0][1], gained, lost, stats.level)
        else:
            interval, error = _averaged(parts, averaged[name], stats.level)
        single = len(parts) == 1 and bool((parts[0][1].counts == 1).all()) and all(set(np.unique(c)) <= {-1.0, 0.0, 1.0} for c in changes)
        if single:
            p_value, test = mcnemar_test(round(gained), round(lost)), "mcnemar exact"
        else:
            p_value, kind = sign_flip_test(list(contributions.values()), stats.resamples, f"{stats.seed}/{name}")
            test = f"sign flip {kind}"
        detectable = None if math.isnan(error) else detectable_effect(error, len(contributions) - 1, stats.level)
        if detectable is not None and detectable > 1:  # accuracies differ by 100 points at most: so few clusters show nothing
            detectable = None
        unpaired = sum(_covered(pair.left_out, base) for base in bases)
        a, b = trees_a[name], trees_b[name]
        found.append(
            Difference(
                name, benchmark, a.value, b.value, b.value - a.value, interval, p_value, test, name in primary, None,
                detectable, a.whole.count, len(contributions), gained, lost, unpaired,
            )
        )  # fmt: skip
    return found


def _leaf_differences(a: Tree, b: Tree) -> list[tuple[float, ClusterSums]]:
    found = []
    for (weight, state_a), (_, state_b) in zip(a.leaves, b.leaves, strict=True):
        sums_a, sums_b = state_a.clusters(), state_b.clusters()
        found.append((weight, ClusterSums(sums_a.ids, sums_a.counts, sums_b.hits - sums_a.hits)))
    return found


def _contributions(leaves: Leaves) -> dict[str, float]:
    """Return what each cluster adds to the metric's difference, all its parts together: they flip as one."""
    found: dict[str, float] = {}
    for weight, sums in leaves:
        for cluster, value in zip(sums.ids, (weight * sums.hits / math.fsum(sums.counts)).tolist(), strict=True):
            found[cluster] = found.get(cluster, 0.0) + value
    return found


def _averaged(leaves: Leaves, bootstrapped: Interval | None, level: float) -> tuple[Interval, float]:
    if bootstrapped is not None:
        low, high = bootstrapped
        return (max(-1.0, low), min(1.0, high)), math.sqrt(math.fsum(value**2 for value in influences(leaves).values()))
    # No variation between clusters: the parts' ends averaged, as wide as under full dependence between the parts.
    ends = []
    for weight, sums in leaves:
        (low, high), error = paired_interval(sums, math.fsum(sums.hits[sums.hits > 0]), math.fsum(-sums.hits[sums.hits < 0]), level)
        ends.append((weight * low, weight * high, weight * error))
    low, high, error = (math.fsum(column) for column in zip(*ends, strict=True))
    return (low, high), error


def _base_metrics(metric: AnyMetric, known: Mapping[str, AnyMetric]) -> list[Metric]:
    if isinstance(metric, Metric):
        return [metric]
    return [base for part in metric.parts for base in _base_metrics(known[part], known)]


def _covered(rows: pa.Table, metric: Metric) -> int:
    return int(pc.sum(_mask(rows, metric)).as_py() or 0)


def _mask(rows: pa.Table, metric: Metric) -> pa.ChunkedArray:
    return pc.and_(pc.equal(rows["subset"], metric.subset), pc.equal(rows["task"], metric.task))


def _hits(rows: pa.Table, metric: Metric) -> NDArray[np.float64]:
    covered = rows.filter(_mask(rows, metric))
    greater, tied, before, positives = (covered[name].to_numpy() for name in _RANKS)
    return hit_at_k(greater, tied, before, positives, metric.k, metric.ties)


def _flips(benchmark: str, metrics: list[AnyMetric], pair: Pair) -> list[dict[str, Any]]:
    strictest: dict[tuple[str, str], Metric] = {}
    for metric in metrics:
        if isinstance(metric, Metric):
            key = (metric.subset, metric.task)
            strictest[key] = min(strictest.get(key, metric), metric, key=lambda item: item.k)
    found = []
    for _, metric in sorted(strictest.items()):
        hits_a, hits_b = _hits(pair.a, metric), _hits(pair.b, metric)
        changed = np.flatnonzero(hits_a != hits_b)
        mask = _mask(pair.a, metric)
        rows_a, rows_b = (table.filter(mask).take(pa.array(changed)).to_pylist() for table in (pair.a, pair.b))
        for row_a, row_b, hit_a, hit_b in zip(rows_a, rows_b, hits_a[changed].tolist(), hits_b[changed].tolist(), strict=True):
            found.append(_flip(benchmark, metric, row_a, row_b, hit_a, hit_b))
    return found


def _flip(benchmark: str, metric: Metric, a: Mapping[str, Any], b: Mapping[str, Any], hit_a: float, hit_b: float) -> dict[str, Any]:
    shown = {**dict(zip(b["shown"], b["candidates"], strict=True)), **dict(zip(a["shown"], a["candidates"], strict=True))}
    return {
        "benchmark": benchmark,
        **{
            name: a[name]
            for name in ("subset", "task", "case_id", "cluster_id", "category", "query_kind", "query", "candidate_kind", "labels")
        },
        "metric": metric.name,
        "direction": "gained" if hit_b > hit_a else "lost",
        "right": [shown.get(label) for label in a["labels"]],  # None: among neither run's listed candidates
        "hit_a": hit_a,
        "hit_b": hit_b,
        "prediction_a": a["prediction"],
        "prediction_b": b["prediction"],
        "predicted_a": shown.get(a["prediction"]),
        "predicted_b": shown.get(b["prediction"]),
        "margin_a": a["margin"],
        "margin_b": b["margin"],
    }
