"""Refinement: the kept gaps are symmetric, as many as can be, the same for any order of the pairs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgray.text_negatives.refine import keep_symmetric

gaps_of_a_set = st.lists(st.floats(-3, 3, allow_nan=False) | st.just(0.0), max_size=60)


def bin_of(gap: float) -> tuple[int, int]:
    """Sign and 0-based bin of width 0.1, by counting steps rather than by dividing."""
    steps = 0
    while (steps + 1) * 0.1 <= abs(gap):
        steps += 1
    return (0, 0) if gap == 0 else ((1 if gap > 0 else -1), steps)


@given(gaps_of_a_set, st.integers(0, 5))
def test_mirrored_bins_keep_equally_many_and_no_more_could_stay(gaps: list[float], seed: int) -> None:
    gaps = [round(gap * 16) / 16 + (0.01 if gap > 0 else -0.01 if gap < 0 else 0) for gap in gaps]  # away from the bins' edges
    kept = keep_symmetric(gaps, [f"pair {n}" for n in range(len(gaps))], seed)
    before, after = Counter(map(bin_of, gaps)), Counter(bin_of(gap) for gap, stays in zip(gaps, kept, strict=True) if stays)
    for sign, steps in before:
        assert after[sign, steps] == min(before[sign, steps], before[-sign, steps])


@given(gaps_of_a_set, st.randoms(use_true_random=False))
def test_the_choice_is_a_function_of_the_set(gaps: list[float], shuffle) -> None:
    keys = [f"pair {n}" for n in range(len(gaps))]
    kept = {key for key, stays in zip(keys, keep_symmetric(gaps, keys, 7), strict=True) if stays}
    order = list(range(len(gaps)))
    shuffle.shuffle(order)
    mixed = keep_symmetric([gaps[n] for n in order], [keys[n] for n in order], 7)
    assert {keys[n] for n, stays in zip(order, mixed, strict=True) if stays} == kept


def test_another_seed_keeps_others_of_the_same_bins() -> None:
    gaps = [0.05] * 40 + [-0.05] * 4
    keys = [f"pair {n}" for n in range(44)]
    first, second = keep_symmetric(gaps, keys, 0), keep_symmetric(gaps, keys, 1)
    assert first.sum() == second.sum() == 8
    assert first[40:].all() and second[40:].all()
    assert (first != second).any()


def test_a_sample_is_drawn_evenly() -> None:
    counts = np.zeros(4)
    for seed in range(400):
        counts += keep_symmetric([0.05, 0.05, 0.05, 0.05, -0.05], list("abcde"), seed)[:4]
    assert counts.sum() == 400
    assert np.abs(counts - 100).max() < 40  # more than four standard deviations of a fair draw


def test_equal_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="same key"):
        keep_symmetric([0.1, -0.1], ["a", "a"], 0)
