"""From scores to ranks, and from ranks to hits: what a tie counts as, what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fgray.errors import DataError, ModelError
from fgray.metrics.spec import Ties

CHUNK_SCORES = 1 << 22  # rows are ranked in chunks of about this many scores, so that temporaries stay near 100 MiB


class RankCounts(NamedTuple):
    """How one case ranks: enough to score it at every k under every tie policy.

    Attributes:
        prediction: position of the best score, the first of equals.
        greater: wrong candidates above the best right one.
        tied: wrong candidates exactly equal to it.
        tied_before: those of them that stand before the first right candidate with that score.
        tied_positives: right candidates with that score, at least 1.
        margin: best right score minus best wrong score; +inf where every candidate is right.
    """

    prediction: int
    greater: int
    tied: int
    tied_before: int
    tied_positives: int
    margin: float


class RankColumns(NamedTuple):
    """`RankCounts` of Q cases as columns: int32 [Q] each, margin float64 [Q]."""

    prediction: NDArray[np.int32]
    greater: NDArray[np.int32]
    tied: NDArray[np.int32]
    tied_before: NDArray[np.int32]
    tied_positives: NDArray[np.int32]
    margin: NDArray[np.float64]


def rank_counts(scores: ArrayLike, labels: Sequence[int]) -> RankCounts:
    """Rank one case.

    Args:
        scores: float64 [N], one score per candidate.
        labels: positions of the right candidates, at least one.

    Returns:
        Its counts as Python numbers.

    Raises:
        ModelError: a score is not finite.
        DataError: no label, or one outside the candidates.
    """
    columns = rank_counts_matrix(np.asarray(scores, dtype=np.float64)[None, :], [labels])
    return RankCounts(*(column[0].item() for column in columns))


def rank_counts_matrix(scores: NDArray[np.float64], labels: Sequence[Sequence[int]]) -> RankColumns:
    """Rank Q cases that have the same number of candidates.

    Args:
        scores: float64 [Q, N].
        labels: Q lists of the right candidates' positions, at least one in each.

    Returns:
        The counts as columns of length Q.

    Raises:
        ModelError: a score is not finite.
        DataError: a case without a label, a label outside the candidates, or Q differs.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or len(scores) != len(labels):
        raise DataError(f"{len(labels)} label lists for scores of shape {scores.shape}", fix="give one list of labels per row of scores")
    width = scores.shape[1]
    distinct = [sorted(set(row)) for row in labels]
    for row, positions in enumerate(distinct):
        if not positions or positions[0] < 0 or positions[-1] >= width:
            problem = f"label out of range: {positions} for {width} candidates" if positions else "a case has no right candidate"
            raise DataError(problem, where=f"row {row}", fix="give each case labels that count its candidates from 0")
    rows = np.repeat(np.arange(len(distinct)), [len(positions) for positions in distinct])
    return rank_columns(scores, rows, np.array([place for positions in distinct for place in positions], dtype=np.int64))


def rank_columns(scores: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> RankColumns:
    """Rank Q cases as `rank_counts_matrix` does, from arrays.

    Args:
        scores: float64 [Q, N].
        rows: int64 [L], ascending: the case that each right candidate belongs to; every case has at least one.
        columns: int64 [L], its position, distinct and ascending within a case.

    Raises:
        ModelError: a score is not finite.
    """
    step = max(1, CHUNK_SCORES // max(1, scores.shape[1]))
    chunks = []
    for start in range(0, len(scores), step):
        first, last = np.searchsorted(rows, [start, start + step])
        chunks.append(_rank_chunk(scores[start : start + step], rows[first:last] - start, columns[first:last], start))
    if not chunks:
        empty = np.zeros(0, dtype=np.int32)
        return RankColumns(empty, empty, empty, empty, empty, np.zeros(0))
    return RankColumns(*(np.concatenate(column) for column in zip(*chunks, strict=True)))


def _rank_chunk(scores: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64], first_row: int) -> RankColumns:
    rows_count, width = scores.shape
    if not np.isfinite(scores).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(scores))[0])
        where = f"row {first_row + row}, candidate {column}"
        raise ModelError(f"a score is {scores[row, column]}", where=where, fix="look for overflow in the model: try dtype fp32")
    starts = np.searchsorted(rows, np.arange(rows_count))

    right = scores[rows, columns]
    best = np.maximum.reduceat(right, starts)
    at_best = right == best[rows]
    tied_positives = np.add.reduceat(at_best.astype(np.int32), starts)
    first = np.minimum.reduceat(np.where(at_best, columns, width), starts)

    greater = np.count_nonzero(scores > best[:, None], axis=1)  # right candidates are never above the best of them
    equal = scores == best[:, None]
    tied = np.count_nonzero(equal, axis=1) - tied_positives
    # Before the first right candidate at the best score, all equal ones are wrong.
    tied_before = np.count_nonzero(equal & (np.arange(width) < first[:, None]), axis=1)
    wrong = scores.copy()
    wrong[rows, columns] = -np.inf
    return RankColumns(
        scores.argmax(axis=1).astype(np.int32),
        greater.astype(np.int32),
        tied.astype(np.int32),
        tied_before.astype(np.int32),
        tied_positives,
        best - wrong.max(axis=1),
    )


def hit_at_k(
    greater: ArrayLike, tied: ArrayLike, tied_before: ArrayLike, tied_positives: ArrayLike, k: int, ties: Ties
) -> NDArray[np.float64]:
    """Score cases from their rank counts: is a right candidate among the first k?

    Args:
        greater: integers [Q] as `rank_counts` gives them (or a scalar); so the next three.
        tied: see there.
        tied_before: see there.
        tied_positives: see there.
        k: how many places count, at least 1.
        ties: what an exact tie counts as (`fgray.metrics.spec.Ties`).

    Returns:
        float64 [Q]: 0 or 1; under "expected" the probability of a hit when the tied candidates are shuffled: of the
        k - greater places left for them at least one holds a right one (hypergeometric).
    """
    above, equal = np.asarray(greater, dtype=np.int64), np.asarray(tied, dtype=np.int64)
    if ties == "wrong":
        return np.asarray(above + equal < k, dtype=np.float64)
    if ties == "first":
        return np.asarray(above + np.asarray(tied_before, dtype=np.int64) < k, dtype=np.float64)
    positives = np.asarray(tied_positives, dtype=np.int64)
    places = np.clip(k - above, 0, equal + positives)
    return chance_at_k(equal + positives, positives, places)


def chance_at_k(num_candidates: ArrayLike, num_positives: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """Return the probability that random order puts a right candidate among the first k.

    It is 1 - C(N - m, k) / C(N, k) (hypergeometric: no right one among k drawn). The draws are gone through one by one,
    p <- p + (1 - p) m / (N - i), which adds positive terms only: exact m/N for one draw, no cancellation for large N.

    Args:
        num_candidates: N, integers [Q] or a scalar, at least 1.
        num_positives: m, from 0 to N.
        k: how many places count; k >= N counts all of them.

    Returns:
        float64 [Q].
    """
    candidates, positives, places = np.broadcast_arrays(
        np.asarray(num_candidates, dtype=np.int64), np.asarray(num_positives, dtype=np.int64), np.asarray(k, dtype=np.int64)
    )
    places = np.minimum(places, candidates)
    # Symmetric in m and k, so the shorter one is gone through.
    draws, marked = np.minimum(positives, places), np.maximum(positives, places)
    chance = np.zeros(candidates.shape)
    for draw in range(int(draws.max(initial=0))):
        left = np.maximum(candidates - draw, 1)
        step = np.where(draw < draws, np.minimum(marked / left, 1.0), 0.0)
        chance = chance + (1.0 - chance) * step
    return chance
