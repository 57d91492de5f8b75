"""Rows of samples.parquet from scores, many cases at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.metrics.ranking import rank_columns
from fgray.runs import SAMPLE_SCHEMA

POOL_SHOWN = 10  # candidates of a pool that a sample lists

Scores = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]


def scored_samples(benchmark: str, rows: pa.Table, scores: Scores, there: Positions, pool: pa.Array | None) -> pa.Table:
    """Return the samples of cases that can all be scored.

    Args:
        benchmark: its name.
        rows: Q rows of ``CASE_SCHEMA``, with as many candidates each.
        scores: float64 [Q, N] of the candidates that have one, finite.
        there: int64 [N], their places among all candidates, ascending; of a list of its own a case needs every score.
        pool: references of all candidates where the cases share them, else None.

    Returns:
        Q rows of ``SAMPLE_SCHEMA``, in order.

    Raises:
        ModelError: a score is not finite.
    """
    count, width = scores.shape
    at, labels = _labels(rows["labels"].combine_chunks(), there)
    ranks = rank_columns(scores, at, labels)
    best = np.broadcast_to(np.arange(width), scores.shape) if pool is None else _first(scores, POOL_SHOWN)
    shown = there[best]
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * shown.shape[1])
    names = rows["candidates"].combine_chunks().flatten() if pool is None else pool.take(pa.array(shown.ravel()))
    columns: dict[str, Any] = {
        "benchmark": pa.repeat(benchmark, count),
        "shown": pa.ListArray.from_arrays(offsets, pa.array(shown.ravel().astype(np.int32))),
        "candidates": pa.ListArray.from_arrays(offsets, names),
        "scores": pa.ListArray.from_arrays(offsets, pa.array(np.take_along_axis(scores, best, axis=1).ravel())),
        "prediction": there[ranks.prediction].astype(np.int32),
        "num_candidates": np.full(count, width, np.int32),
        "num_positives": np.bincount(at, minlength=count).astype(np.int32),
        "greater": ranks.greater,
        "tied": ranks.tied,
        "tied_before": ranks.tied_before,
        "tied_positives": ranks.tied_positives,
        "margin": pa.array(ranks.margin, mask=~np.isfinite(ranks.margin)),
        "excluded": pa.nulls(count, pa.string()),
    }
    return pa.table([columns.get(name, rows[name] if name in rows.column_names else None) for name in SAMPLE_SCHEMA.names], SAMPLE_SCHEMA)


def _labels(lists: pa.ListArray, there: Positions) -> tuple[Positions, Positions]:
    """Return the distinct right candidates of all cases that have a score: case, place in `there`; sorted."""
    cases = lists.value_parent_indices().to_numpy().astype(np.int64)
    places = np.searchsorted(there, lists.flatten().to_numpy())
    known = there[np.minimum(places, len(there) - 1)] == lists.flatten().to_numpy()
    flat = cases[known] * len(there) + places[known]
    if not np.all(flat[1:] > flat[:-1]):
        flat = np.unique(flat)
    return flat // len(there), flat % len(there)


def _first(scores: Scores, count: int) -> Positions:
    """Return the places of the best scores of each row, [Q, count] or fewer: best first, equal ones in their order."""
    width = scores.shape[1]
    if width <= count:
        return np.argsort(-scores, axis=1, kind="stable")
    negated = -scores
    last = np.partition(negated, count - 1, axis=1)[:, count - 1 : count]
    chosen = negated <= last
    found = np.empty((len(scores), count), np.int64)
    plain = np.count_nonzero(chosen, axis=1) == count  # no tie at the end of the list
    found[plain] = np.nonzero(chosen[plain])[1].reshape(-1, count)
    found[~plain] = np.argsort(negated[~plain], axis=1, kind="stable")[:, :count]
    order = np.argsort(np.take_along_axis(negated, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
