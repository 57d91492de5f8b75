"""From samples to the entries of metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fgray.config.schema import StatsConfig
from fgray.errors import DataError, did_you_mean
from fgray.metrics.intervals import Resampler, metric_intervals
from fgray.metrics.spec import AnyMetric, Metric, Pooled
from fgray.metrics.states import State, merge


@dataclass(frozen=True)
class Tree:
    """A metric as a weighted sum of means.

    Attributes:
        whole: state of all its samples, each counted once per time that a part covers it.
        leaves: (weight, state) of the means that it averages; the weights sum to 1. One leaf: a proportion.
        value: the metric's value.
        chance: its value under random ranking.
    """

    whole: State
    leaves: list[tuple[float, State]]
    value: float
    chance: float


def summarise(samples: pa.Table, metrics: Sequence[AnyMetric], stats: StatsConfig) -> dict[str, dict[str, Any]]:
    """Compute a benchmark's metrics with their intervals.

    Args:
        samples: rows of ``SAMPLE_SCHEMA`` of one benchmark, in any order.
        metrics: definitions; the parts of a Macro or Pooled are names among them.
        stats: confidence level, resamples, seed.

    Returns:
        Name -> entry: ``value``; ``count`` scored samples; ``correct`` the raw sum of their hits; ``ci95`` [low, high]
        (``ci`` and ``level`` at another level); ``chance`` the mean exact chance level; ``ties``, ``near_ties``
        (margin under 1e-5), ``excluded`` samples; ``clusters``. An entry does not depend on the order of the rows nor on
        which other metrics are asked. Proportions have Wilson intervals, averages of several have BCa bootstrap intervals.

    Raises:
        DataError: several benchmarks, a metric without scored samples, two metrics of one name, an unknown part.
    """
    trees = build_trees(samples, metrics)
    leaves = {name: [(weight, state.clusters()) for weight, state in tree.leaves] for name, tree in trees.items()}
    intervals = metric_intervals(leaves, Resampler.of(samples, stats), stats.level)
    entries: dict[str, dict[str, Any]] = {}
    for name, tree in trees.items():
        low, high = intervals[name]
        interval: dict[str, Any] = {"ci95": [low, high]} if stats.level == 0.95 else {"ci": [low, high], "level": stats.level}
        entries[name] = {
            "value": tree.value,
            "count": tree.whole.count,
            "correct": tree.whole.hits,
            **interval,
            "chance": tree.chance,
            "ties": tree.whole.ties,
            "near_ties": tree.whole.near_ties,
            "excluded": tree.whole.excluded,
            "clusters": pc.count_distinct(tree.whole.outcomes["cluster_id"]).as_py(),
        }
    return entries


def build_trees(samples: pa.Table, metrics: Sequence[AnyMetric]) -> dict[str, Tree]:
    """Reduce the samples and resolve the parts of every metric, in the order of `metrics`.

    Raises:
        DataError: as `summarise`.
    """
    names = pc.unique(samples["benchmark"]).to_pylist()
    if len(names) > 1:
        raise DataError(f"samples of {len(names)} benchmarks ({', '.join(sorted(names))}) at once", fix="summarise one benchmark at a time")
    known: dict[str, AnyMetric] = {}
    for metric in metrics:
        if metric.name in known:
            raise DataError(f"two metrics are called '{metric.name}'", fix="rename one of them")
        known[metric.name] = metric
    built: dict[str, Tree] = {}
    for metric in metrics:
        _build(metric.name, samples, known, built, ())
    return {metric.name: built[metric.name] for metric in metrics}


def _build(name: str, samples: pa.Table, known: Mapping[str, AnyMetric], built: dict[str, Tree], above: tuple[str, ...]) -> Tree:
    if name in built:
        return built[name]
    if name not in known:
        raise DataError(f"unknown part '{name}'", where=f"metric {above[-1]}", fix=did_you_mean(name, known))
    if name in above:
        raise DataError(f"metric '{name}' is a part of itself", fix="break the circle in its parts")
    metric = known[name]
    if isinstance(metric, Metric):
        built[name] = _leaf(State.of(samples, metric), metric)
        return built[name]
    if not metric.parts:
        raise DataError("no parts to combine", where=f"metric {name}", fix="name at least one metric under parts")
    parts = [_build(part, samples, known, built, (*above, name)) for part in metric.parts]
    whole = merge(part.whole for part in parts)
    if isinstance(metric, Pooled):
        built[name] = _mean(whole)
    else:
        share = 1.0 / len(parts)
        leaves = [(share * weight, state) for part in parts for weight, state in part.leaves]
        built[name] = _average(whole, leaves, parts)
    return built[name]


def _leaf(state: State, metric: Metric) -> Tree:
    if state.count == 0:
        absent = f"there are none of subset '{metric.subset}', task '{metric.task}'"
        reason = f"all {state.excluded} samples are excluded" if state.excluded else absent
        raise DataError(f"no sample to score: {reason}", where=f"metric {metric.name}", fix="check the benchmark's data and the quarantine")
    if not metric.per_category:
        return _mean(state)
    if state.outcomes["category"].null_count:
        raise DataError("a sample has no category", where=f"metric {metric.name}", fix="a mean over categories needs every case's category")
    categories = state.by_category()
    share = 1.0 / len(categories)
    return _average(state, [(share, part) for part in categories], [_mean(part) for part in categories])


def _mean(state: State) -> Tree:
    return Tree(state, [(1.0, state)], state.hits / state.count, state.chance)


def _average(whole: State, leaves: list[tuple[float, State]], parts: Sequence[Tree]) -> Tree:
    # Dividing the exactly rounded sum once keeps round values round (the mean of ones is 1).
    value, chance = (math.fsum(numbers) / len(parts) for numbers in ([part.value for part in parts], [part.chance for part in parts]))
    return Tree(whole, leaves, value, chance)
