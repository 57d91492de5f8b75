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


def test_seeds_that_agree_say_nothing_of_the_spread() -> None:
    unknown = {"ci": None, "p": None}
    assert across_seeds(changes(0.0, 0.0), 0.95) == {"hard": {"m": {"deltas": [0, 0], "mean": 0, **unknown}}}
    assert across_seeds(changes(0.5, 0.5), 0.95) == {"hard": {"m": {"deltas": [0.5, 0.5], "mean": 0.5, **unknown}}}
    deltas = (0.3 - 0.1, 0.4 - 0.2)
    assert deltas[0] != deltas[1], "the same change, but for rounding"
    found = across_seeds(changes(*deltas), 0.95)
    assert found is not None and found["hard"]["m"]["p"] is found["hard"]["m"]["ci"] is None
    zero = across_seeds(changes(-0.1, 0.1), 0.95)
    assert zero is not None and zero["hard"]["m"]["p"] == 1
