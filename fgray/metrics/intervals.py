"""Confidence intervals for clustered samples: Wilson with an effective count, BCa cluster bootstrap for averages."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import special

from fgray.config.schema import StatsConfig
from fgray.metrics.states import ClusterSums

Interval = tuple[float, float]
Leaves = Sequence[tuple[float, ClusterSums]]

GRAIN = 2.0**-46  # influences are rounded to this (1.4e-14), so that their sums are exact in any order and on any number of threads
CHUNK_WEIGHTS = 1 << 22  # bootstrap weights held at once


def proportion_interval(sums: ClusterSums, level: float) -> Interval:
    """Return the interval of a proportion whose samples come in clusters.

    Wilson's score interval (Wilson 1927) with the effective count N / deff in place of N (Kish 1965; recommended for
    clustered proportions by Dean & Pagano 2015, Journal of Survey Statistics and Methodology 3) and Student's t quantile
    with clusters - 1 degrees of freedom in place of the normal one (as Korn & Graubard 1998, Survey Methodology 24).

    Args:
        sums: counts and hits per cluster, at least one sample.
        level: confidence level.

    Returns:
        (low, high) within [0, 1]; (0, 1) for a single cluster, which says nothing about variation between clusters.
    """
    if len(sums.ids) < 2:
        return 0.0, 1.0
    total = _total(sums.counts)
    value = _total(sums.hits) / total
    quantile = float(special.stdtrit(len(sums.ids) - 1, (1 + level) / 2))
    return wilson(value, total / design_effect(sums), quantile)


def wilson(value: float, count: float, quantile: float) -> Interval:
    """Return Wilson's score interval for a proportion `value` of `count` independent samples (which need not be whole)."""
    square = quantile * quantile
    centre = (value + square / (2 * count)) / (1 + square / count)
    half = quantile / (1 + square / count) * math.sqrt(max(value * (1 - value), 0.0) / count + square / (4 * count * count))
    # At value 0 and 1 the formula's own ends are 0 and 1; rounding must not leave them.
    low = 0.0 if value <= 0 else max(0.0, centre - half)
    high = 1.0 if value >= 1 else min(1.0, centre + half)
    return low, high


def design_effect(sums: ClusterSums) -> float:
    """Return how much clustering inflates the variance of a proportion (Kish 1965, Survey Sampling).

    It is the cluster-robust variance, by the delete-one-cluster jackknife (C - 1)/C sum (p - p_without_c)^2, over that of N
    independent samples, p (1 - p) / (N - 1): 1 for clusters of one. The jackknife rather than the linearised variance,
    because it does not shrink when few clusters of unequal size carry the estimate (Bell & McCaffrey 2002, Survey
    Methodology 28). An estimate below 1 counts as 1: with few clusters it is chance more often than knowledge. At p = 0 or
    1 there is no variance to compare, so the worst case stands in, clusters of identical samples: sum n_c^2 / N.

    Args:
        sums: counts and hits of at least two clusters.
    """
    total = _total(sums.counts)
    value = _total(sums.hits) / total
    independent = value * (1 - value) / (total - 1)
    if independent <= 0:
        return _total(sums.counts**2) / total
    return max(1.0, _total(jackknife_influences(sums) ** 2) / independent)


def jackknife_influences(sums: ClusterSums) -> NDArray[np.float64]:
    """Return sqrt((C - 1)/C) (p - p_without_c) for each of C >= 2 clusters: their squares add up to the variance of p."""
    clusters, total = len(sums.ids), _total(sums.counts)
    value = _total(sums.hits) / total
    scaled: NDArray[np.float64] = math.sqrt((clusters - 1) / clusters) * (sums.hits - value * sums.counts) / (total - sums.counts)
    return scaled


@dataclass(frozen=True)
class Resampler:
    """Draws the same bootstrap samples of a benchmark's clusters for whatever metric asks.

    Subsets that share clusters are resampled as one stratum, others apart; each stratum has its own random stream, named
    after its subsets. So image-to-text, text-to-image and their averages see the same resample, and no metric's interval
    depends on which others are asked.

    Attributes:
        strata: name -> its cluster ids, sorted.
        resamples: number of bootstrap samples.
        seed: seed of all streams.
    """

    strata: Mapping[str, list[str]]
    resamples: int
    seed: int

    @classmethod
    def of(cls, samples: pa.Table, stats: StatsConfig) -> Resampler:
        """Find the strata of a benchmark's samples (rows of ``SAMPLE_SCHEMA``).

        Strata of a single cluster show no variation; they are collapsed into one (Cochran 1977, Sampling Techniques,
        section 5A.12), with the smallest other stratum where there is only one of them.
        """
        scored = samples.filter(pc.is_null(samples["excluded"]))
        pairs = scored.group_by(["subset", "cluster_id"], use_threads=False).aggregate([])
        clusters_of: dict[str, set[str]] = {}
        for subset, cluster in zip(pairs["subset"].to_pylist(), pairs["cluster_id"].to_pylist(), strict=True):
            clusters_of.setdefault(subset, set()).add(cluster)
        groups: list[tuple[list[str], set[str]]] = []
        for subset, clusters in sorted(clusters_of.items()):
            touching = [group for group in groups if not group[1].isdisjoint(clusters)]
            groups = [group for group in groups if group[1].isdisjoint(clusters)]
            groups.append((sorted({subset}.union(*(names for names, _ in touching))), clusters.union(*(ids for _, ids in touching))))
        groups.sort(key=lambda group: (len(group[1]), group[0]))
        if groups and len(groups[0][1]) == 1:
            merged = max(2, sum(len(ids) == 1 for _, ids in groups))
            names = sorted(name for subsets, _ in groups[:merged] for name in subsets)
            groups = [(names, set().union(*(ids for _, ids in groups[:merged]))), *groups[merged:]]
        return cls({" ".join(names): sorted(ids) for names, ids in groups}, stats.resamples, stats.seed)

    def deviations(self, influences: Mapping[str, Mapping[str, float]]) -> NDArray[np.float64]:
        """Return how far each metric moves in each bootstrap sample.

        Args:
            influences: metric name -> cluster id -> change of the metric per extra copy of the cluster.

        Returns:
            float64 [resamples, metrics]: sum over clusters of (copies - 1) times influence.
        """
        moved = np.zeros((self.resamples, len(influences)))
        for name, clusters in self.strata.items():
            table = np.array([[column.get(cluster, 0.0) for column in influences.values()] for cluster in clusters])
            if not table.any():
                continue
            size = len(clusters)
            digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
            stream = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
            step = max(1, CHUNK_WEIGHTS // size)
            for start in range(0, self.resamples, step):
                rows = min(step, self.resamples - start)
                drawn = stream.integers(0, size, size=(rows, size)) + size * np.arange(rows)[:, None]
                copies = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
                moved[start : start + rows] += (copies - 1.0) @ table
        return moved


def influences(leaves: Leaves) -> dict[str, float]:
    """Return each cluster's influence on a weighted average of means: the linear term of one more copy of it.

    For a mean it is its weight times the jackknife influence, which is scaled so that the bootstrap variance equals the
    jackknife's and is not too small for small strata (the purpose of Rao & Wu 1988, JASA 83). A mean over a single cluster has no
    residual of its own; its distance from the average stands in (collapsed strata, as in `Resampler.of`), which errs
    towards wider intervals.

    Args:
        leaves: (weight, sums) of at least two means.

    Returns:
        Cluster id -> influence, rounded to ``GRAIN``.
    """
    means = [_total(sums.hits) / _total(sums.counts) for _, sums in leaves]
    average = math.fsum(weight * mean for (weight, _), mean in zip(leaves, means, strict=True))
    found: dict[str, float] = {}
    for (weight, sums), mean in zip(leaves, means, strict=True):
        if len(sums.ids) > 1:
            values = weight * jackknife_influences(sums)
        else:
            values = np.array([weight * math.sqrt(len(leaves) / (len(leaves) - 1)) * (mean - average)])
        for cluster, value in zip(sums.ids, values.tolist(), strict=True):
            found[cluster] = found.get(cluster, 0.0) + value
    return {cluster: round(value / GRAIN) * GRAIN for cluster, value in found.items()}


def metric_intervals(metrics: Mapping[str, Leaves], resampler: Resampler, level: float) -> dict[str, Interval]:
    """Return the interval of every metric: Wilson's for a proportion, the bootstrap's for an average of several.

    Where an average shows no variation between clusters (all parts at 0 or 1), the ends of its parts' own intervals are
    averaged: as wide as under full dependence between the parts, so this errs towards caution.

    Args:
        metrics: name -> (weight, sums) of the means that it averages; one of weight 1 for a proportion.
        resampler: the benchmark's bootstrap samples.
        level: confidence level.

    Returns:
        Name -> (low, high) within [0, 1].
    """
    averaged = average_intervals({name: leaves for name, leaves in metrics.items() if len(leaves) > 1}, resampler, level)
    found: dict[str, Interval] = {}
    for name, leaves in metrics.items():
        ends = averaged.get(name)
        if ends is None:
            parts = [(weight, *proportion_interval(sums, level)) for weight, sums in leaves]
            ends = math.fsum(weight * low for weight, low, _ in parts), math.fsum(weight * high for weight, _, high in parts)
        found[name] = max(0.0, ends[0]), min(1.0, ends[1])
    return found


def average_intervals(metrics: Mapping[str, Leaves], resampler: Resampler, level: float) -> dict[str, Interval | None]:
    """Return BCa cluster-bootstrap intervals (Efron 1987, JASA 82) of averages of means, all from the same resamples.

    The bootstrap runs on the cluster influences (`influences`), so a small category cannot vanish from a resample and a
    mean over many categories costs no more than one over two. The acceleration is that of stratified samples,
    sum u^3 / (6 (sum u^2)^1.5) (Davison & Hinkley 1997, equation 5.38).

    Args:
        metrics: name -> (weight, sums) of at least two means.
        resampler: the benchmark's bootstrap samples.
        level: confidence level.

    Returns:
        Name -> (low, high); None where no resample differs from the sample (every mean is 0 or 1, or there is one cluster).
    """
    moved = {name: influences(leaves) for name, leaves in metrics.items()}
    if not moved:
        return {}
    deviations = resampler.deviations(moved)
    found: dict[str, Interval | None] = {}
    for column, (name, leaves) in enumerate(metrics.items()):
        value = math.fsum(weight * _total(sums.hits) / _total(sums.counts) for weight, sums in leaves)
        terms = moved[name].values()
        acceleration = math.fsum(u**3 for u in terms) / (6 * math.fsum(u**2 for u in terms) ** 1.5) if any(terms) else 0.0
        ends = bca_ends(deviations[:, column], acceleration, level)
        found[name] = None if ends is None else (value + ends[0], value + ends[1])
    return found


def bca_ends(deviations: NDArray[np.float64], acceleration: float, level: float) -> Interval | None:
    """Return the ends of a BCa interval around the value, from the deviations of the resamples; None where none deviates."""
    if not deviations.any():
        return None
    below = (np.count_nonzero(deviations < 0) + 0.5 * np.count_nonzero(deviations == 0)) / len(deviations)
    bias = float(special.ndtri(min(max(below, 0.5 / len(deviations)), 1 - 0.5 / len(deviations))))
    quantile = float(special.ndtri((1 + level) / 2))
    shifted = [bias + (bias + z) / max(1 - acceleration * (bias + z), 1e-9) for z in (-quantile, quantile)]
    low, high = np.quantile(deviations, special.ndtr(shifted))
    return float(low), float(high)


def _total(values: NDArray[np.float64]) -> float:
    return math.fsum(values.tolist())  # exactly rounded, so the same on every machine
