from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats as reference

from fgray.config.schema import StatsConfig
from fgray.metrics.intervals import Resampler, average_intervals, design_effect, influences, metric_intervals, proportion_interval, wilson
from fgray.metrics.states import ClusterSums
from tests.metrics.make import right, sample, table


def sums(counts: object, hits: object) -> ClusterSums:
    counts, hits = np.asarray(counts, dtype=float), np.asarray(hits, dtype=float)
    return ClusterSums([f"{i:04}" for i in range(len(counts))], counts, hits)


def one_stratum(clusters: int, resamples: int = 10_000, seed: int = 0) -> Resampler:
    return Resampler({"s": [f"{i:04}" for i in range(clusters)]}, resamples, seed)


@pytest.mark.parametrize(("hits", "count"), [(0, 12), (1, 12), (30, 57), (245, 245)])
def test_wilson_is_scipys_at_the_normal_quantile(hits: int, count: int) -> None:
    expected = reference.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count, reference.norm.ppf(0.975)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_clusters_of_one_give_wilson_with_students_quantile() -> None:
    low, high = proportion_interval(sums(np.ones(40), np.arange(40) < 30), 0.9)
    quantile = reference.t.ppf(0.95, 39)
    # Wilson's ends are where the score test with this quantile just does not reject: (p - end)^2 = q^2 end (1 - end) / n.
    for end in (low, high):
        assert (0.75 - end) ** 2 == pytest.approx(quantile**2 * end * (1 - end) / 40)
    assert low < 0.75 < high


def test_the_design_effect_is_the_cluster_size_when_clusters_agree() -> None:
    assert design_effect(sums(np.full(50, 4), 4 * (np.arange(50) < 20))) == pytest.approx(4 * (199 / 200) * (50 / 49), rel=1e-12)
    assert design_effect(sums(np.ones(10), np.arange(10) < 3)) == pytest.approx(1)


def test_the_design_effect_is_the_jackknifes_by_hand() -> None:
    counts, hits = [3, 1, 4, 2], [3, 0, 1, 1]
    without = [(5 - h) / (10 - n) for n, h in zip(counts, hits, strict=True)]
    variance = 3 / 4 * sum((p - 0.5) ** 2 for p in without)
    assert design_effect(sums(counts, hits)) == pytest.approx(variance / (0.25 / 9))


def test_edges_of_a_proportion() -> None:
    assert proportion_interval(sums([7], [3]), 0.95) == (0, 1)  # one cluster says nothing
    low, high = proportion_interval(sums([2] * 10, [0] * 10), 0.95)
    assert low == 0
    assert high == pytest.approx(reference.t.ppf(0.975, 9) ** 2 / (10 + reference.t.ppf(0.975, 9) ** 2))  # ten effective samples
    assert proportion_interval(sums([2] * 10, [2] * 10), 0.95) == pytest.approx((1 - high, 1))
    # Alternating hits within clusters look better than independent ones; they are not believed.
    assert proportion_interval(sums([2] * 10, [1] * 10), 0.95) == pytest.approx(wilson(0.5, 20, reference.t.ppf(0.975, 9)))


@pytest.mark.parametrize("sizes", ["equal", "unequal"])
def test_averages_agree_with_scipys_bca(sizes: str) -> None:
    # Nearly all right: the distribution is skewed, so bias and acceleration move the ends.
    random = np.random.default_rng(3)
    clusters = 80
    counts = np.full((2, clusters), 3.0) if sizes == "equal" else random.integers(2, 5, (2, clusters)).astype(float)
    hits = random.binomial(counts.astype(int), random.beta(1.8, 0.15, clusters)).astype(float)

    def statistic(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        n0, n1, h0, h1 = (np.take(values, rows.astype(int)) for values in (counts[0], counts[1], hits[0], hits[1]))
        return (h0.sum(axis) / n0.sum(axis) + h1.sum(axis) / n1.sum(axis)) / 2

    def scipys(method: str) -> np.ndarray:
        data, random = (np.arange(clusters),), np.random.default_rng(0)
        return np.array(reference.bootstrap(data, statistic, n_resamples=20_000, method=method, rng=random, batch=1000).confidence_interval)

    expected = scipys("BCa")
    leaves = {"m": [(0.5, sums(counts[0], hits[0])), (0.5, sums(counts[1], hits[1]))]}
    found = np.array(average_intervals(leaves, one_stratum(clusters, 20_000), 0.95)["m"])
    corrections = scipys("percentile") - expected
    assert (np.abs(found - expected) < 0.4 * np.abs(corrections)).all()  # a wrong sign of either correction is off by one or more


def test_strata_are_subsets_joined_by_shared_clusters() -> None:
    rows = []
    for subset, clusters in {"a": "123", "b": "345", "c": "67", "d": "8", "e": "9"}.items():
        rows += [right(subset + c, c, True, subset=subset) for c in clusters]
    rows += [sample("x", "lost", None, subset="c")]  # an excluded case is no cluster
    found = Resampler.of(table(rows), StatsConfig()).strata
    assert found == {"a b": list("12345"), "c": list("67"), "d e": list("89")}
    alone = Resampler.of(table([row for row in rows if row["subset"] != "e"]), StatsConfig()).strata
    assert alone == {"a b": list("12345"), "c d": list("678")}


def test_a_mean_over_categories_has_the_variance_within_categories() -> None:
    # Categories that are all right or all wrong do not vary, however different they are from each other...
    sure = [(1 / 20, ClusterSums([f"{10 * c + i:04}" for i in range(10)], np.ones(10), np.full(10, float(c % 2)))) for c in range(20)]
    assert average_intervals({"m": sure}, one_stratum(200), 0.95)["m"] is None
    # ... and else the variance of the mean is the mean of the categories' variances over the number of categories.
    random = np.random.default_rng(0)
    hits = (random.random((20, 10)) < np.linspace(0, 1, 20)[:, None]).astype(float)
    mixed = [(1 / 20, ClusterSums([f"{10 * c + i:04}" for i in range(10)], np.ones(10), hits[c])) for c in range(20)]
    expected = np.sqrt((hits.var(axis=1, ddof=1) / 10).sum()) / 20
    deviations = one_stratum(200).deviations({"m": influences(mixed)})
    assert deviations.std() == pytest.approx(expected, rel=0.03)


def test_categories_of_one_cluster_borrow_the_variation_between_them() -> None:
    hits = (np.arange(300) % 4 > 0).astype(float)
    single = [(1 / 300, ClusterSums([f"{i:04}"], np.ones(1), hits[i : i + 1])) for i in range(300)]
    found = average_intervals({"m": single}, one_stratum(300), 0.95)["m"]
    assert found == pytest.approx(wilson(0.75, 300, 1.96), abs=0.005)


def test_ten_thousand_resamples_of_five_thousand_clusters_take_seconds() -> None:
    random = np.random.default_rng(0)
    leaves = {"m": [(0.5, sums(np.ones(5000), random.random(5000) < 0.5)), (0.5, sums(np.ones(5000), random.random(5000) < 0.7))]}
    start = time.process_time()
    average_intervals(leaves, one_stratum(5000), 0.95)
    assert time.process_time() - start < 20  # about 1.5 s on one core; slower machines exist


# --- simulated coverage -------------------------------------------------------------------------------------------------

PROPORTIONS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def cluster_quality(random: np.random.Generator, mean: float, correlation: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draw success probabilities of clusters: beta with this mean and intra-cluster correlation."""
    if correlation == 0:
        return np.full(shape, mean)
    return random.beta(mean * (1 - correlation) / correlation, (1 - mean) * (1 - correlation) / correlation, shape)


@pytest.mark.parametrize(("clusters", "goal"), [(20, 0.92), (500, 0.935)])
@pytest.mark.parametrize("correlation", [0, 0.3])
@pytest.mark.parametrize("sizes", ["five", "one to nine"])
def test_proportion_intervals_cover(clusters: int, goal: float, correlation: float, sizes: str) -> None:
    random = np.random.default_rng(20)
    runs = 2000
    for mean in PROPORTIONS:
        shape = (runs, clusters)
        counts = np.full(shape, 5) if sizes == "five" else random.integers(1, 10, shape)
        hits = random.binomial(counts, cluster_quality(random, mean, correlation, shape))
        ends = [proportion_interval(ClusterSums([""] * clusters, n, h), 0.95) for n, h in zip(counts + 0.0, hits + 0.0, strict=True)]
        covered = np.mean([low <= mean <= high for low, high in ends])
        assert covered >= goal, f"{covered:.3f} at p = {mean}"


@pytest.mark.parametrize("correlation", [0, 0.3])
@pytest.mark.parametrize(("clusters", "means"), [(20, [0.5]), (20, [0.9]), (20, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), (200, [0.9, 0.5])])
def test_bootstrap_intervals_of_averages_cover(clusters: int, means: list[float], correlation: float) -> None:
    """Macro accuracy over subsets, two questions one way and one the other in each cluster."""
    random = np.random.default_rng(7)
    runs, covered = 400, 0
    names = [[f"{s}.{c:03}" for c in range(clusters)] for s in range(len(means))]
    for run in range(runs):
        leaves = []
        for ids, mean in zip(names, means, strict=True):
            quality = cluster_quality(random, mean, correlation, (clusters,))
            for questions in (2, 1):
                counts = np.full(clusters, float(questions))
                leaves.append((0.5 / len(means), ClusterSums(ids, counts, random.binomial(questions, quality).astype(float))))
        resampler = Resampler({str(s): ids for s, ids in enumerate(names)}, 500, run)
        low, high = metric_intervals({"m": leaves}, resampler, 0.95)["m"]
        covered += low <= np.mean(means) <= high
    assert covered / runs >= 0.92
