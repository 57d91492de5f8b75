"""Boxes are drawn fairly, and by nothing but the numbers of the draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgray.training.region_sampling import choose_boxes, usable

# Areas 64 and 1024² are the bounds, both included.
BOXES = np.array(
    [[0, 0, 8, 8], [0, 0, 8, 7.9], [0, 0, 1024, 1024], [0, 0, 1024, 1025], [0, 0, 30, 0], [5, 5, -20, -20], [3, 4, 50, 60]], float
)


def test_boxes_too_small_or_too_large_are_not_used() -> None:
    assert usable(BOXES).tolist() == [True, False, True, False, False, False, True]


@given(st.integers(0, 40), st.integers(0, 12), st.integers(0, 1000), st.booleans())
def test_a_draw_is_distinct_usable_and_repeatable(count: int, most: int, seed: int, upstream: bool) -> None:
    boxes = np.column_stack([np.zeros((count, 2)), np.arange(count) + 1.0, np.full(count, 10.0)])
    chosen = choose_boxes(boxes, most, seed, 3, 1, 17, take_then_filter=upstream)
    assert len(set(chosen.tolist())) == len(chosen) <= most
    assert usable(boxes)[chosen].all()
    assert np.array_equal(chosen, choose_boxes(boxes, most, seed, 3, 1, 17, take_then_filter=upstream))
    if not upstream:
        assert len(chosen) == min(most, usable(boxes).sum())


def test_upstream_draws_before_it_filters() -> None:
    boxes = np.concatenate([np.tile([0.0, 0, 4, 4], (8, 1)), np.tile([0.0, 0, 40, 40], (8, 1))])
    numbers = [len(choose_boxes(boxes, 4, seed, 0, 0, 0, take_then_filter=True)) for seed in range(200)]
    assert min(numbers) < 4  # tiny boxes took places
    assert np.mean(numbers) == pytest.approx(2, abs=0.2)
    # Both draw in the same order: what upstream keeps are the usable ones of the first four.
    for seed in range(20):
        mine, theirs = choose_boxes(boxes, 4, seed, 0, 0, 0), choose_boxes(boxes, 4, seed, 0, 0, 0, take_then_filter=True)
        assert mine[: len(theirs)].tolist() == theirs.tolist()


def test_every_number_of_the_draw_matters_and_every_box_has_its_chance() -> None:
    boxes = np.tile([0.0, 0, 40, 40], (10, 1))
    draws = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert len({tuple(choose_boxes(boxes, 5, *draw).tolist()) for draw in draws}) == len(draws)
    first = np.array([choose_boxes(boxes, 3, 0, 0, 0, sample) for sample in range(3000)])
    counts = np.bincount(first.reshape(-1), minlength=10)
    assert np.abs(counts - 900).max() < 4 * np.sqrt(900 * 0.7)  # four standard deviations of a fair draw
