"""Metrics of very many samples: sums that merge, and clusters that are worked on one bucket at a time.

`fgray.metrics.summary` keeps every cluster in memory and draws each of them ten thousand times; that ends at some millions. Here an
entry is the same where it is a plain mean (value, Wilson interval and all counts). The interval of an average of several means is
bootstrapped from the same cluster influences, but by groups: clusters whose influence is equal are interchangeable, so how often they are
drawn together is multinomial. The random stream differs from the other's, and each metric has its own. So the ends agree to what ten
thousand resamples leave open.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import special

from fgray.config.schema import StatsConfig
from fgray.errors import DataError
from fgray.evaluation.clusters import ClusterRows, Floats, Ints, Strata
from fgray.metrics.intervals import GRAIN, Interval, bca_ends, wilson
from fgray.metrics.spec import AnyMetric, Metric, Pooled
from fgray.metrics.states import outcomes_of

GROUPS = 1 << 12  # of equal influence; more are rounded together
DRAWN = 1 << 22  # numbers drawn at once


@dataclass
class _Leaf:
    """Sums of the samples of one metric, or of one category of it."""

    subset: str
    hits: Counter[float] = field(default_factory=Counter)
    chances: Counter[float] = field(default_factory=Counter)


@dataclass
class _Mean:
    """A mean over some leaves; each counts as often as it is named."""

    weight: float
    leaves: Counter[int]
    count: int = 0
    hits: Fraction = Fraction()
    clusters: int = 0
    squares: int = 0


class _Tree(NamedTuple):
    means: list[_Mean]
    whole: Counter[int]
    ties: int
    near_ties: int
    excluded: int
    value: float
    chance: float


class LargeSummary:
    """Takes in samples of one benchmark slice by slice; the order of the slices does not matter."""

    def __init__(self, metrics: Sequence[AnyMetric], stats: StatsConfig) -> None:
        self.metrics, self.stats = {metric.name: metric for metric in metrics}, stats
        self.leaves: list[_Leaf] = []
        self.numbers: dict[tuple[str, str | None], int] = {}
        self.counts: dict[str, Ints] = {}  # of each plain metric: ties, near ties, excluded
        self.clusters = ClusterRows()

    def add(self, samples: pa.Table) -> None:
        """Take in some rows of ``SAMPLE_SCHEMA``."""
        for metric in self.metrics.values():
            if isinstance(metric, Metric):
                outcomes, *counts = outcomes_of(samples, metric)
                self.counts[metric.name] = self.counts.get(metric.name, np.zeros(3, np.int64)) + counts
                if outcomes.num_rows:
                    self._take(metric, outcomes)

    def _take(self, metric: Metric, outcomes: pa.Table) -> None:
        if metric.per_category and outcomes["category"].null_count:
            raise DataError(
                "a sample has no category", where=f"metric {metric.name}", fix="a mean over categories needs every case's category"
            )
        encoded = outcomes["category"].combine_chunks().dictionary_encode(null_encoding="encode")
        codes, hit, chance = encoded.indices.to_numpy(), outcomes["hit"].to_numpy(), outcomes["chance"].to_numpy()
        numbers = np.array([self._number(metric, category) for category in encoded.dictionary.to_pylist()])
        for values, name in ((hit, "hits"), (chance, "chances")):
            distinct, which = np.unique(values, return_inverse=True)
            for pair, times in zip(*np.unique(codes * len(distinct) + which, return_counts=True), strict=True):
                code, value = divmod(int(pair), len(distinct))
                getattr(self.leaves[numbers[code]], name)[float(distinct[value])] += int(times)
        self.clusters.add(outcomes["cluster_id"], numbers[codes], hit)

    def _number(self, metric: Metric, category: str | None) -> int:
        if (metric.name, category) not in self.numbers:
            self.numbers[metric.name, category] = len(self.leaves)
            self.leaves.append(_Leaf(metric.subset))
        return self.numbers[metric.name, category]

    def check(self) -> None:
        """Refuse a metric without scored samples.

        Raises:
            DataError: there is one.
        """
        for metric in self.metrics.values():
            if isinstance(metric, Metric) and not any(name == metric.name for name, _ in self.numbers):
                what = f"no sample to score: there are none of subset '{metric.subset}', task '{metric.task}', or all are excluded"
                raise DataError(what, where=f"metric {metric.name}", fix="check the benchmark's data and the quarantine")

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return what `summarise` returns."""
        self.check()
        trees = {name: self._tree(name) for name in self.metrics}
        pairs, strata = self._count(trees)
        moved = self._influences({name: tree for name, tree in trees.items() if len(tree.means) > 1}, strata)
        entries = {}
        for name, tree in trees.items():
            ends = _proportion(pairs[name], self.stats.level) if len(tree.means) == 1 else self._average(name, tree, moved[name])
            low, high = max(0.0, ends[0]), min(1.0, ends[1])
            interval: dict[str, Any] = {"ci95": [low, high]} if self.stats.level == 0.95 else {"ci": [low, high], "level": self.stats.level}
            entries[name] = {
                "value": tree.value,
                "count": sum(pair[0] * times for pair, times in pairs[name].items()),
                "correct": float(_total(self.leaves, tree.whole, "hits")),
                **interval,
                "chance": tree.chance,
                "ties": tree.ties,
                "near_ties": tree.near_ties,
                "excluded": tree.excluded,
                "clusters": sum(pairs[name].values()),
            }
        return entries

    def _tree(self, name: str) -> _Tree:
        metric = self.metrics[name]
        if isinstance(metric, Metric):
            found = {category: number for (owner, category), number in self.numbers.items() if owner == name}
            ordered = [found[category] for category in sorted(found, key=lambda category: category or "")]
            whole = Counter(ordered)
            ties, near, excluded = (int(count) for count in self.counts[name])
            means = [self._mean(1 / len(ordered), Counter([number])) for number in ordered]
        else:
            parts = [self._tree(part) for part in metric.parts]
            whole = sum((part.whole for part in parts), Counter())
            ties, near, excluded = (sum(getattr(part, name) for part in parts) for name in ("ties", "near_ties", "excluded"))
            if isinstance(metric, Pooled):
                means = [self._mean(1.0, whole)]
            else:
                means = [self._mean(mean.weight / len(parts), mean.leaves) for part in parts for mean in part.means]
                value, chance = (math.fsum(getattr(part, name) for part in parts) / len(parts) for name in ("value", "chance"))
                return _Tree(means, whole, ties, near, excluded, value, chance)
        chances = [float(_total(self.leaves, mean.leaves, "chances") / mean.count) for mean in means]
        values = [float(mean.hits) / mean.count for mean in means]
        value, chance = math.fsum(values) / len(means), math.fsum(chances) / len(means)
        return _Tree(means, whole, ties, near, excluded, value, chance)

    def _mean(self, weight: float, leaves: Counter[int]) -> _Mean:
        count = sum(times * sum(self.leaves[number].hits.values()) for number, times in leaves.items())
        return _Mean(weight, leaves, count, _total(self.leaves, leaves, "hits"))

    def _count(self, trees: Mapping[str, _Tree]) -> tuple[dict[str, Counter[tuple[int, float]]], Strata]:
        """Return how many clusters have which (count, hits) in each metric, and the strata; fills in the means' clusters."""
        pairs: dict[str, Counter[tuple[int, float]]] = {name: Counter() for name in trees}
        strata = Strata([leaf.subset for leaf in self.leaves])
        for clusters, leaves, times, hits in self.clusters.buckets(len(self.leaves)):
            strata.add(clusters, leaves)
            for name, tree in trees.items():
                weight = _lookup(tree.whole, len(self.leaves))[leaves]
                counts = np.bincount(clusters, weight * times)
                sums = np.bincount(clusters, weight * times * hits)[counts > 0]
                found, number = np.unique(np.stack([counts[counts > 0], sums]), axis=1, return_counts=True)
                for count, total, many in zip(*found.tolist(), number.tolist(), strict=True):
                    pairs[name][int(count), total] += many
                if len(tree.means) > 1:
                    _, mean, scored, _ = _by_mean(tree, len(self.leaves), clusters, leaves, times, hits)
                    squares = np.bincount(mean, scored**2, minlength=len(tree.means))
                    for one, found_here, square in zip(tree.means, np.bincount(mean, minlength=len(tree.means)), squares, strict=True):
                        one.clusters += int(found_here)
                        one.squares += int(square)
        strata.join_single()
        return pairs, strata

    def _influences(self, trees: Mapping[str, _Tree], strata: Strata) -> dict[str, dict[int, Counter[float]]]:
        """Return metric -> stratum -> influence -> number of clusters that have it (as `fgray.metrics.intervals.influences`)."""
        moved: dict[str, dict[int, Counter[float]]] = {name: {} for name in trees}
        for clusters, leaves, times, hits in self.clusters.buckets(len(self.leaves)) if trees else ():
            of_cluster = strata.of(clusters, leaves)
            for name, tree in trees.items():
                cluster, mean, counts, sums = _by_mean(tree, len(self.leaves), clusters, leaves, times, hits)
                weight, total, value, members = (
                    np.array(column)
                    for column in zip(*((m.weight, m.count, float(m.hits) / m.count, m.clusters) for m in tree.means), strict=True)
                )
                scale = np.sqrt((members - 1) / members)[mean]
                left = np.maximum(total[mean] - counts, 1)  # a mean over a single cluster has none left; see below
                terms = weight[mean] * scale * (sums - value[mean] * counts) / left
                average = math.fsum(weight * value)
                alone = weight * math.sqrt(len(tree.means) / (len(tree.means) - 1)) * (value - average)
                terms = np.where(members[mean] > 1, terms, alone[mean])
                change = np.rint(np.bincount(cluster, terms) / GRAIN) * GRAIN
                there = np.bincount(cluster) > 0
                for stratum in np.unique(of_cluster):
                    chosen = np.flatnonzero((of_cluster[: len(change)] == stratum) & there)
                    values, number = np.unique(change[chosen], return_counts=True)
                    groups = moved[name].setdefault(int(stratum), Counter())
                    groups.update(dict(zip(values.tolist(), number.tolist(), strict=True)))
                    if len(groups) > 16 * GROUPS:
                        moved[name][int(stratum)] = _coarser(groups)
        for groups_of in moved.values():
            for stratum, groups in groups_of.items():
                groups[0.0] += strata.sizes[stratum] - sum(groups.values())
        return moved

    def _average(self, name: str, tree: _Tree, moved: Mapping[int, Counter[float]]) -> Interval:
        """Return the bootstrap interval of an average of means."""
        deviations = np.zeros(self.stats.resamples)
        cubes = squares = 0.0
        for stratum, exact in sorted(moved.items()):
            groups = _coarser(exact) if len(exact) > GROUPS else exact
            values, numbers = np.array(sorted(groups)), np.array([groups[value] for value in sorted(groups)])
            if not values.any():
                continue
            digest = hashlib.sha256(f"{self.stats.seed}/{name}/{stratum}".encode()).digest()
            stream = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
            step = max(1, DRAWN // len(values))
            for start in range(0, len(deviations), step):
                rows = min(step, len(deviations) - start)
                drawn = stream.multinomial(numbers.sum(), numbers / numbers.sum(), size=rows)
                deviations[start : start + rows] += (drawn - numbers) @ values
            cubes, squares = cubes + float(numbers @ values**3), squares + float(numbers @ values**2)
        ends = bca_ends(deviations, cubes / (6 * squares**1.5) if squares else 0.0, self.stats.level)
        if ends is not None:
            value = math.fsum(mean.weight * float(mean.hits) / mean.count for mean in tree.means)
            return value + ends[0], value + ends[1]
        parts = [(mean.weight, *_proportion_of(mean, self.stats.level)) for mean in tree.means]
        return math.fsum(weight * low for weight, low, _ in parts), math.fsum(weight * high for weight, _, high in parts)


def _by_mean(tree: _Tree, size: int, clusters: Ints, leaves: Ints, times: Ints, hits: Floats) -> tuple[Ints, Ints, Floats, Floats]:
    """Return the distinct (cluster, mean) of a bucket, sorted, with their counts and hits."""
    keys, counts, sums = [], [], []
    layers: list[dict[int, tuple[int, int]]] = []
    for number, mean in enumerate(tree.means):
        for leaf, many in mean.leaves.items():
            layer = next((one for one in layers if leaf not in one), None)
            if layer is None:
                layers.append(layer := {})
            layer[leaf] = (number, many)
    for layer in layers:  # one, unless a leaf is in several means
        of_leaf = np.array([layer.get(leaf, (-1, 0)) for leaf in range(size)])
        mean, many = of_leaf[leaves].T
        chosen = mean >= 0
        keys.append(clusters[chosen] * len(tree.means) + mean[chosen])
        counts.append((many * times)[chosen])
        sums.append((many * times * hits)[chosen])
    distinct, which = np.unique(np.concatenate(keys), return_inverse=True)
    found: list[Floats] = [
        np.bincount(which, np.concatenate(values), minlength=len(distinct)).astype(np.float64) for values in (counts, sums)
    ]
    return distinct // len(tree.means), distinct % len(tree.means), found[0], found[1]


def _lookup(weights: Mapping[int, int], size: int) -> Ints:
    return np.array([weights.get(number, 0) for number in range(size)], np.int64)


def _total(leaves: Sequence[_Leaf], chosen: Counter[int], column: str) -> Fraction:
    """Return the exact sum of the hits or chances of some leaves."""
    return sum(
        (Fraction(value) * times * many for number, many in chosen.items() for value, times in getattr(leaves[number], column).items()),
        Fraction(),
    )


def _proportion(pairs: Mapping[tuple[int, float], int], level: float) -> Interval:
    """Return `fgray.metrics.intervals.proportion_interval` from how many clusters have which (count, hits)."""
    clusters = sum(pairs.values())
    if clusters < 2:
        return 0.0, 1.0
    total = sum(count * times for (count, _), times in pairs.items())
    value = float(sum((Fraction(hits) * times for (_, hits), times in pairs.items()), Fraction())) / total
    independent = value * (1 - value) / (total - 1)
    if independent <= 0:
        effect = sum(count**2 * times for (count, _), times in pairs.items()) / total
    else:
        scale = math.sqrt((clusters - 1) / clusters)
        terms = ((scale * (hits - value * count) / (total - count), times) for (count, hits), times in pairs.items())
        effect = max(1.0, float(sum((Fraction(term**2) * times for term, times in terms), Fraction())) / independent)
    return wilson(value, total / effect, float(special.stdtrit(clusters - 1, (1 + level) / 2)))


def _proportion_of(mean: _Mean, level: float) -> Interval:
    """Return the interval of a mean at 0 or 1, where clusters of identical samples stand in for the variance."""
    if mean.clusters < 2:
        return 0.0, 1.0
    quantile = float(special.stdtrit(mean.clusters - 1, (1 + level) / 2))
    return wilson(float(mean.hits) / mean.count, mean.count**2 / mean.squares, quantile)


def _coarser(groups: Mapping[float, int]) -> Counter[float]:
    """Round influences until there are few enough; their sums of squares then change by less than a thousandth."""
    values, numbers = np.array(list(groups)), np.array(list(groups.values()))
    fractions, exponents = np.frexp(values)
    for bits in (20, 16, 12, 10):
        found: Counter[float] = Counter()
        for value, number in zip(np.ldexp(np.rint(np.ldexp(fractions, bits)), exponents - bits).tolist(), numbers.tolist(), strict=True):
            found[value] += number
        if len(found) <= GROUPS:
            break
    return found
