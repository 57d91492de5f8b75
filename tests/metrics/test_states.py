from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.metrics.spec import Metric
from fgray.metrics.states import State, merge
from tests.metrics.make import sample, table

METRIC = Metric("m", "s", "i2t", ties="expected", per_category=True)

row_values = st.tuples(
    st.sampled_from(["c1", "c2", "c3"]),
    st.sampled_from(["dog", "cat", None]),
    st.one_of(st.none(), st.lists(st.sampled_from([0.0, 0.1, 0.1 + 5e-6]), min_size=1, max_size=7)),
)
many_rows = st.lists(row_values, max_size=20)


def state_of(values: list[tuple[str, str | None, list[float] | None]]) -> State:
    return State.of(
        table([sample(str(i), cluster, scores, category=category) for i, (cluster, category, scores) in enumerate(values)]), METRIC
    )


@given(many_rows, many_rows, many_rows)
@settings(max_examples=60, deadline=None)
def test_merging_is_associative_and_commutative_and_equals_all_at_once(a: list, b: list, c: list) -> None:
    one, two, three = state_of(a), state_of(b), state_of(c)
    whole = state_of(a + b + c)
    for merged in ((one + two) + three, one + (two + three), three + one + two, merge([two, three, one, State.empty()])):
        assert merged == whole  # tables and counts: every float to the last bit
        assert (merged.hits, merged.count) == (whole.hits, whole.count)


@given(many_rows, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_samples_does_not_matter(values: list, shuffler: random.Random) -> None:
    shuffled = values[:]
    shuffler.shuffle(shuffled)
    assert state_of(shuffled) == state_of(values)


def test_hand_counted_sums() -> None:
    rows = [
        sample("1", "b", [1.0, 1.0, 1.0]),  # hit 1/3
        sample("2", "b", [1.0, 1.0, 1.0]),
        sample("3", "b", [1.0, 1.0, 1.0]),
        sample("4", "a", [2.0, 1.0]),  # hit
        sample("5", "a", [1.0, 1.0 + 1e-6]),  # miss, near tie
        sample("6", "c", None),
        sample("7", "a", [2.0, 1.0], task="t2i"),  # another task
    ]
    state = State.of(table(rows), Metric("m", "s", "i2t", ties="expected"))
    assert (state.count, state.excluded, state.ties, state.near_ties) == (5, 1, 3, 4)
    assert state.hits == pytest.approx(2.0)
    assert state.chance == pytest.approx((3 * (1 / 3) + 2 * 0.5) / 5)
    sums = state.clusters()
    assert sums.ids == ["a", "b"]
    assert sums.counts.tolist() == [2, 3]
    assert sums.hits.tolist() == pytest.approx([1, 1])


def test_categories_are_told_apart() -> None:
    rows = [sample(str(i), "c", [1.0, 0.0], category=category) for i, category in enumerate(["dog", "cat", "dog", None])]
    assert [part.count for part in State.of(table(rows), METRIC).by_category()] == [1, 2, 1]  # cat, dog, none
