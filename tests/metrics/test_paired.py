from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as reference

from fgray.metrics.paired import EXACT_CLUSTERS, detectable_effect, holm, mcnemar_test, paired_interval, sign_flip_test
from fgray.metrics.states import ClusterSums


def enumerate_signs(differences: list[float]) -> float:
    observed, extreme, patterns = abs(sum(differences)), 0, 0
    for signs in itertools.product([1, -1], repeat=len(differences)):
        patterns += 1
        extreme += abs(sum(sign * value for sign, value in zip(signs, differences, strict=True))) >= observed - 1e-9
    return extreme / patterns


@pytest.mark.parametrize(
    "differences",
    [[0.1, 0.2, -0.05], [1 / 3, 1 / 3, -1 / 3, 1 / 6, 0.0], [0.0, 0.0], [0.25], list(np.linspace(-0.3, 0.8, EXACT_CLUSTERS))],
)
def test_few_clusters_are_enumerated(differences: list[float]) -> None:
    assert sign_flip_test(differences, 1000, "x") == (pytest.approx(enumerate_signs(differences)), "exact")


def test_many_clusters_are_sampled_close_to_the_enumeration() -> None:
    differences = [0.1, -0.05, 0.3, 0.02, -0.1, 0.07, 0.11, -0.2, 0.15, 0.01, -0.03, 0.12, 0.05, 0.04, 0.09, -0.06]
    p_value, how = sign_flip_test(differences, 100_000, "x")
    assert how == "monte-carlo"
    assert p_value == pytest.approx(enumerate_signs(differences), abs=0.005)


def test_equal_differences_give_the_binomial_test() -> None:
    p_value, _ = sign_flip_test([0.01] * 32 + [-0.01] * 15 + [0.0] * 500, 200_000, "x")
    assert p_value == pytest.approx(reference.binomtest(32, 47).pvalue, abs=0.002)


def test_a_sampled_p_value_is_never_zero_and_depends_on_name_alone() -> None:
    assert sign_flip_test([0.1] * 200, 999, "x") == (1 / 1000, "monte-carlo")
    mixed = [0.1, -0.07, 0.031] * 20
    assert sign_flip_test(mixed, 999, "x") == sign_flip_test(mixed[::-1], 999, "x")
    assert sign_flip_test(mixed, 999, "x") != sign_flip_test(mixed, 999, "y")


def test_mcnemar_by_hand() -> None:
    # Of 10 changed cases 9 or more on one side: 2 (1 + 10) / 2^10.
    assert mcnemar_test(9, 1) == mcnemar_test(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar_test(0, 0) == 1


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1, "b": 1}
    assert holm({}) == {}


def test_the_detectable_effect_has_eighty_percent_power() -> None:
    error, clusters, runs = 0.03, 30, 200_000
    effect = detectable_effect(error, clusters - 1, 0.95)
    random = np.random.default_rng(0)
    found = effect + error * random.standard_normal(runs)
    spread = error * np.sqrt(random.chisquare(clusters - 1, runs) / (clusters - 1))
    power = np.mean(np.abs(found / spread) > reference.t.ppf(0.975, clusters - 1))
    assert power == pytest.approx(0.8, abs=0.01)


def test_the_paired_interval_of_independent_cases_by_hand() -> None:
    # 100 cases, 12 gained, 4 lost (Bonett & Price: one imagined case on each side).
    differences = np.array([1.0] * 12 + [-1.0] * 4 + [0.0] * 84)
    sums = ClusterSums([str(i) for i in range(100)], np.ones(100), differences)
    (low, high), error = paired_interval(sums, 12, 4, 0.95)
    up, down = 13 / 102, 5 / 102
    assert error == pytest.approx(math.sqrt((up + down - (up - down) ** 2) / 102))
    assert (low, high) == pytest.approx((up - down - reference.t.ppf(0.975, 99) * error, up - down + reference.t.ppf(0.975, 99) * error))


def test_edges_of_the_paired_interval() -> None:
    assert paired_interval(ClusterSums(["a"], np.array([9.0]), np.array([2.0])), 3, 1, 0.95)[0] == (-1, 1)
    (low, high), _ = paired_interval(ClusterSums(list("abcdefgh"), np.full(8, 3.0), np.zeros(8)), 0, 0, 0.95)
    assert -1 < low < 0 < high < 1
    assert low == pytest.approx(-high)


@pytest.mark.parametrize("correlation", [0.0, 0.3])
@pytest.mark.parametrize("clusters", [20, 500])
def test_type_one_error_and_coverage_when_nothing_differs(clusters: int, correlation: float) -> None:
    """Two equally good models on clusters of five: both right as often, cluster by cluster as random."""
    random = np.random.default_rng(11)
    runs, rejected, covered = 1000, 0, 0
    for run in range(runs):
        shape = (2, clusters)
        quality = random.beta(0.7 * (1 - correlation) / correlation, 0.3 * (1 - correlation) / correlation, shape) if correlation else 0.7
        hits = random.random((5, *shape)) < quality
        change = hits[:, 1].astype(float) - hits[:, 0]
        per_cluster = change.sum(axis=0)
        rejected += sign_flip_test((per_cluster / (5 * clusters)).tolist(), 999, str(run))[0] <= 0.05
        sums = ClusterSums([""] * clusters, np.full(clusters, 5.0), per_cluster)
        (low, high), _ = paired_interval(sums, float((change > 0).sum()), float((change < 0).sum()), 0.95)
        covered += low <= 0 <= high
    assert rejected / runs <= 0.07
    assert covered / runs >= 0.92
