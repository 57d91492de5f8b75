"""Two models on the same cases: sign-flip and McNemar tests, Holm's correction, paired intervals, detectable effects."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy import stats as distributions

from fgray.metrics.intervals import GRAIN, Interval, jackknife_influences
from fgray.metrics.states import ClusterSums

EXACT_CLUSTERS = 14  # up to this many differing clusters all sign patterns are enumerated
CHUNK_DRAWS = 1 << 22
POWER = 0.8


def sign_flip_test(differences: Sequence[float], resamples: int, stream_name: str) -> tuple[float, str]:
    """Test whether two models are equally good, cluster by cluster (Fisher's randomisation test for paired data).

    Were they equal, swapping them within a cluster would be as likely: each cluster's difference keeps its size and takes a
    random sign. Clusters without a difference do not matter. Clusters of equal size of difference are drawn together as a
    binomial count, which has the same distribution.

    Args:
        differences: what each cluster adds to the difference of the metric (B minus A).
        resamples: random sign patterns where there are too many to enumerate.
        stream_name: names the random stream, so that a test does not depend on the others.

    Returns:
        Two-sided p value and how it was found: "exact" over all sign patterns, or "monte-carlo", (b + 1) / (B + 1)
        (Phipson & Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9).
    """
    # Rounded like the bootstrap's influences: equal sizes are then equal, and sums exact in any order.
    rounded = np.round(np.asarray(differences, dtype=np.float64) / GRAIN) * GRAIN
    moved = rounded[rounded != 0]
    if len(moved) == 0:
        return 1.0, "exact"
    observed = abs(float(moved.sum())) - GRAIN * len(moved)  # rounding must not make an equal pattern look smaller
    sizes, counts = np.unique(np.abs(moved), return_counts=True)
    if len(moved) <= EXACT_CLUSTERS:
        patterns = np.arange(1 << len(moved))
        signs = 1.0 - 2.0 * ((patterns[:, None] >> np.arange(len(moved))) & 1)
        return float(np.mean(np.abs(signs @ np.abs(moved)) >= observed)), "exact"
    stream = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(stream_name.encode()).digest()[:16], "big")))
    extreme, step = 0, max(1, CHUNK_DRAWS // len(sizes))
    for start in range(0, resamples, step):
        drawn = stream.binomial(counts, 0.5, size=(min(step, resamples - start), len(sizes)))
        extreme += int(np.count_nonzero(np.abs((2.0 * drawn - counts) @ sizes) >= observed))
    return (extreme + 1) / (resamples + 1), "monte-carlo"


def mcnemar_test(gained: int, lost: int) -> float:
    """Return the two-sided p value of McNemar's exact test: of the cases that changed, half should have improved."""
    return float(distributions.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6)."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return adjusted


def paired_interval(sums: ClusterSums, gained: float, lost: float, level: float) -> tuple[Interval, float]:
    """Return the interval of a difference of two proportions on the same clustered cases, and its standard error.

    The adjusted Wald interval for paired proportions (Bonett & Price 2012, Journal of Educational and Behavioral
    Statistics 37), one imagined case added to each kind of change, with the effective count N / deff in place of N and
    Student's t with clusters - 1 degrees of freedom, as `proportion_interval` does for one proportion. So runs without any
    change still have an interval of positive width.

    Args:
        sums: ``hits`` is the sum of the differences (B minus A) per cluster.
        gained: sum of the positive differences over samples.
        lost: sum of the negative differences over samples, as a positive number.
        level: confidence level.

    Returns:
        ((low, high), standard error); ((-1, 1), nan) for a single cluster.
    """
    if len(sums.ids) < 2:
        return (-1.0, 1.0), math.nan
    total = math.fsum(sums.counts)
    effective = total / _paired_design_effect(sums, (gained + lost) / total)
    up, down = ((changed / total * effective + 1) / (effective + 2) for changed in (gained, lost))
    error = math.sqrt((up + down - (up - down) ** 2) / (effective + 2))
    half = float(special.stdtrit(len(sums.ids) - 1, (1 + level) / 2)) * error
    return (max(-1.0, up - down - half), min(1.0, up - down + half)), error


def _paired_design_effect(sums: ClusterSums, changed: float) -> float:
    total = math.fsum(sums.counts)
    difference = math.fsum(sums.hits) / total
    independent = (changed - difference**2) / (total - 1)
    if independent <= GRAIN:
        return math.fsum(sums.counts**2) / total
    return max(1.0, math.fsum(jackknife_influences(sums) ** 2) / independent)


def detectable_effect(error: float, degrees: float, level: float) -> float:
    """Return the smallest true difference that a test at this level finds with 80 % power.

    (t_{1 - alpha/2} + t_{0.8}) times the standard error of the difference (Bloom 1995, Evaluation Review 19), without
    correction for several metrics.

    Args:
        error: standard error of the difference.
        degrees: degrees of freedom, clusters - 1.
        level: confidence level, 1 - alpha.
    """
    quantiles: NDArray[np.float64] = special.stdtrit(degrees, np.array([(1 + level) / 2, POWER]))
    return float(quantiles.sum() * error)
