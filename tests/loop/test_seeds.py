"""What several seeds say together, against a t test of SciPy."""

from __future__ import annotations

import pytest
from scipy import stats

from fgray.loop.seeds import across_seeds


def changes(*deltas: float) -> dict[str, dict[str, object]]:
    return {str(seed): {"hard": {"m": {"delta": delta}}} for seed, delta in enumerate(deltas)}


def test_one_seed_says_nothing_of_the_method() -> None:
    assert across_seeds(changes(0.3), 0.95) is None


def test_three_seeds_are_a_t_test() -> None:
    deltas = [0.12, 0.08, 0.17]
    found = across_seeds(changes(*deltas), 0.9)
    assert found is not None
    reference = stats.ttest_1samp(deltas, 0)
    low, high = reference.confidence_interval(0.9)
    assert found["hard"]["m"] == {
        "deltas": deltas,
        "mean": pytest.approx(sum(deltas) / 3),
        "ci": [pytest.approx(low), pytest.approx(high)],
        "p": pytest.approx(reference.pvalue),
    }


def test_seeds_that_agree_to_the_last_digit() -> None:
    assert across_seeds(changes(0.0, 0.0), 0.95) == {"hard": {"m": {"deltas": [0, 0], "mean": 0, "ci": [0, 0], "p": 1}}}
    assert across_seeds(changes(0.5, 0.5), 0.95) == {"hard": {"m": {"deltas": [0.5, 0.5], "mean": 0.5, "ci": [0.5, 0.5], "p": 0}}}
