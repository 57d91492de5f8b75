from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.errors import DataError, ModelError
from fgray.metrics.ranking import chance_at_k, hit_at_k, rank_counts, rank_counts_matrix
from tests.metrics.make import count_ranks

RANKS = ("greater", "tied", "tied_before", "tied_positives")


@st.composite
def scored_cases(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    scores = draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=6))
    labels = draw(st.lists(st.integers(0, len(scores) - 1), min_size=1, max_size=3, unique=True))
    return scores, labels


def hits(scores: list[float], labels: list[int], k: int, ties: str) -> float:
    counts = rank_counts(scores, labels)
    return float(hit_at_k(*(getattr(counts, name) for name in RANKS), k, ties))  # type: ignore[arg-type]


@given(scored_cases())
@settings(max_examples=300, deadline=None)
def test_counts_equal_a_plain_loop(case: tuple[list[float], list[int]]) -> None:
    scores, labels = case
    assert rank_counts(scores, labels)._asdict() == count_ranks(scores, labels)


@given(scored_cases(), st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_hits_equal_sorting_under_every_tie_policy(case: tuple[list[float], list[int]], k: int) -> None:
    scores, labels = case
    order = range(len(scores))
    first = sorted(order, key=lambda i: -scores[i])  # Python's sort is stable
    worst = sorted(order, key=lambda i: (-scores[i], i in labels))
    assert hits(scores, labels, k, "first") == float(any(i in labels for i in first[:k]))
    assert hits(scores, labels, k, "wrong") == float(any(i in labels for i in worst[:k]))
    found = Fraction()
    for shuffled in itertools.permutations(order):
        ranked = sorted(shuffled, key=lambda i: -scores[i])
        found += any(i in labels for i in ranked[:k])
    assert hits(scores, labels, k, "expected") == pytest.approx(float(found / math.factorial(len(scores))), abs=1e-12)


def test_hand_counted_cases() -> None:
    # 0.9 is above the right candidate (0.5, position 2), which ties with positions 0 and 3.
    scores, labels = [0.5, 0.9, 0.5, 0.5, 0.1], [2]
    assert rank_counts(scores, labels) == (1, 1, 2, 1, 1, 0.5 - 0.9)
    assert [hits(scores, labels, k, "wrong") for k in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert [hits(scores, labels, k, "first") for k in (1, 2, 3, 4)] == [0, 0, 1, 1]
    assert [hits(scores, labels, k, "expected") for k in (1, 2, 3, 4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("ties", "value"), [("wrong", 0.0), ("first", 1 / 4), ("expected", 1 / 4)])
def test_a_constant_scorer_gets_what_the_tie_policy_says(ties: str, value: float) -> None:
    found = [hits([0.3] * 4, [label], 1, ties) for label in range(4)]
    assert np.mean(found) == pytest.approx(value)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_a_matrix_gives_the_counts_of_its_rows(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgray.metrics.ranking.CHUNK_SCORES", chunk)
    random = np.random.default_rng(0)
    scores = random.integers(0, 5, (40, 9)).astype(np.float64)
    labels = [random.choice(9, size=random.integers(1, 4), replace=False).tolist() for _ in range(40)]
    columns = rank_counts_matrix(scores, labels)
    for row in range(40):
        assert {name: column[row] for name, column in columns._asdict().items()} == count_ranks(scores[row].tolist(), labels[row])


def test_a_label_named_twice_counts_once() -> None:
    assert rank_counts([1.0, 1.0, 0.0], [1, 1]) == rank_counts([1.0, 1.0, 0.0], [1])


@pytest.mark.parametrize(
    ("candidates", "positives", "k"), [(2, 1, 1), (9, 1, 1), (25_000, 5, 10), (25_000, 1, 1), (5_000, 5_000, 1), (6, 3, 4)]
)
def test_chance_is_the_exact_rational(candidates: int, positives: int, k: int) -> None:
    exact = 1 - Fraction(math.comb(candidates - positives, k), math.comb(candidates, k))
    assert chance_at_k(candidates, positives, k) == pytest.approx(float(exact), rel=1e-13)


def test_chance_in_columns_and_at_the_edges() -> None:
    np.testing.assert_array_equal(chance_at_k([4, 4, 4, 3], [1, 4, 0, 2], [1, 2, 3, 9]), [0.25, 1.0, 0.0, 1.0])


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="a score is nan .*row 1, candidate 2.*fp32"):
        rank_counts_matrix(np.array([[0.0, 1.0, 2.0], [0.0, 1.0, np.nan]]), [[0], [1]])


@pytest.mark.parametrize(("labels", "message"), [([3], "label out of range"), ([-1], "label out of range"), ([], "no right candidate")])
def test_labels_outside_the_candidates_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rank_counts([0.0, 1.0, 2.0], labels)
