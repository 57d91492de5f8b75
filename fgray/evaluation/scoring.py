"""From scores to one row per case, slice by slice: every score, the ranks, the margin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.data.cases import CaseSet
from fgray.evaluation.samples import POOL_SHOWN, Scores, scored_samples
from fgray.metrics.ranking import rank_counts
from fgray.runs import SAMPLE_SCHEMA

SLICE = 1 << 12  # cases scored at a time
BLOCK = 1 << 22  # scores held at a time
ORDER = [(name, "ascending") for name in ("subset", "task", "case_id")]


class Scorer(Protocol):
    """Where a case's scores come from. A reference that has no score (a quarantined image) gives NaN."""

    def list_scores(self, query_kind: str, queries: Sequence[str], candidate_kind: str, candidates: Sequence[Sequence[str]]) -> Scores:
        """Return [Q, N] scores of each query's own N candidates."""
        ...

    def pool_scores(self, query_kind: str, queries: Sequence[str], candidate_kind: str, pool: Sequence[str]) -> Scores:
        """Return [Q, N] scores of the pool's members for each query."""
        ...

    def reason(self, kind: str, reference: str) -> str:
        """Return why a reference has no score."""
        ...


def score_slices(benchmark: str, cases: CaseSet, scorer: Scorer) -> Iterator[pa.Table]:
    """Score every case and yield rows of ``SAMPLE_SCHEMA``, sorted by (subset, task, case id), in slices."""
    table = cases.table.sort_by(ORDER)
    for start in range(0, table.num_rows, SLICE):
        rows = table.slice(start, SLICE).combine_chunks()
        yield from _score(benchmark, rows, cases, scorer)


def score_cases(benchmark: str, cases: CaseSet, scorer: Scorer) -> pa.Table:
    """Return the rows of `score_slices` in one table."""
    return pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *score_slices(benchmark, cases, scorer)])


def _score(benchmark: str, rows: pa.Table, cases: CaseSet, scorer: Scorer) -> Iterator[pa.Table]:
    """Yield the samples of some cases, in order."""
    groups: dict[tuple[str | None, str, str, int], list[int]] = {}
    pools, widths = rows["pool"].to_pylist(), rows["candidates"].combine_chunks().value_lengths().to_pylist()
    for row, (pool, query, candidate) in enumerate(
        zip(pools, *(rows[f"{side}_kind"].to_pylist() for side in ("query", "candidate")), strict=True)
    ):
        groups.setdefault((pool, query, candidate, len(cases.pools[pool]) if pool is not None else widths[row]), []).append(row)
    found, places = [], []
    for (pool, query_kind, candidate_kind, width), members in groups.items():
        step = max(1, BLOCK // max(1, width))
        for start in range(0, len(members), step):
            chosen = np.array(members[start : start + step])
            some = rows.take(chosen)
            queries = some["query"].to_pylist()
            if pool is None:
                scores = scorer.list_scores(query_kind, queries, candidate_kind, some["candidates"].to_pylist())
            else:
                scores = scorer.pool_scores(query_kind, queries, candidate_kind, cases.pools[pool])
            for part, samples in _samples(benchmark, some, scores, cases, scorer):
                found.append(samples)
                places.append(chosen[part])
    order = np.argsort(np.concatenate(places), kind="stable")
    yield pa.concat_tables(found).combine_chunks().take(pa.array(order))


def _samples(benchmark: str, rows: pa.Table, scores: Scores, cases: CaseSet, scorer: Scorer) -> Iterator[tuple[Any, pa.Table]]:
    """Yield samples with their rows: cases with all their scores, or those of one pool whose damaged members are the same, at once."""
    pool = rows["pool"][0].as_py()
    unscored = np.isnan(scores)
    some: npt.NDArray[np.bool_] = np.asarray(unscored.any(axis=1))
    left: npt.NDArray[np.bool_] = np.ones(len(scores), bool)
    if not some.all():
        yield (
            np.flatnonzero(~some),
            scored_samples(benchmark, rows.filter(pa.array(~some)), scores[~some], np.arange(scores.shape[1]), _names(pool, cases)),
        )
        left = some
    if pool is not None and left.any():
        # A damaged image leaves the pool, it does not void every query.
        usual = unscored[np.flatnonzero(left)[np.argmin(np.count_nonzero(unscored[left], axis=1))]]
        right = np.array([not usual[labels].all() for labels in rows["labels"].to_pylist()])
        alike = left & (unscored == usual).all(axis=1) & right
        if alike.any():
            there = np.flatnonzero(~usual)
            yield (
                np.flatnonzero(alike),
                scored_samples(benchmark, rows.filter(pa.array(alike)), scores[alike][:, there], there, _names(pool, cases)),
            )
            left = left & ~alike
    if left.any():
        lines = zip(rows.filter(pa.array(left)).to_pylist(), scores[left], strict=True)
        yield (
            np.flatnonzero(left),
            pa.Table.from_pylist([_sample(benchmark, row, line, cases, scorer) for row, line in lines], SAMPLE_SCHEMA),
        )


def _names(pool: str | None, cases: CaseSet) -> pa.Array | None:
    return None if pool is None else pa.array(cases.pools[pool], pa.string())


def _sample(benchmark: str, row: Mapping[str, Any], scores: Scores, cases: CaseSet, scorer: Scorer) -> dict[str, Any]:
    candidates = row["candidates"] if row["pool"] is None else cases.pools[row["pool"]]
    excluded = _exclusion(row, candidates, scores, scorer)
    sample = {name: row[name] for name in SAMPLE_SCHEMA.names if name in row}
    if excluded:
        shown = list(range(min(len(candidates), POOL_SHOWN))) if row["pool"] else list(range(len(candidates)))
        known: dict[str, Any] = {"scores": None, "num_candidates": len(candidates), "num_positives": len(row["labels"])}
    else:
        # Only a pool still has unscored members here: a damaged image leaves the pool, it does not void every query.
        there = np.flatnonzero(~np.isnan(scores))
        labels = np.flatnonzero(np.isin(there, row["labels"]))
        counts = rank_counts(scores[there], labels.tolist())
        order = there[np.argsort(-scores[there], kind="stable")]
        shown = order[:POOL_SHOWN].tolist() if row["pool"] else list(range(len(candidates)))
        known = {
            "scores": scores[shown].tolist(),
            "prediction": int(order[0]),
            "num_candidates": len(there),
            "num_positives": len(labels),
            **{name: getattr(counts, name) for name in ("greater", "tied", "tied_before", "tied_positives")},
            "margin": counts.margin if np.isfinite(counts.margin) else None,
        }
    return {**sample, "benchmark": benchmark, "shown": shown, "candidates": [candidates[i] for i in shown], "excluded": excluded, **known}


def _exclusion(row: Mapping[str, Any], candidates: Sequence[str], scores: Scores, scorer: Scorer) -> str | None:
    """Return why a case cannot be scored, or None.

    A small candidate set needs every score; of a pool one right member is enough.
    """
    missing = np.isnan(scores)
    if not missing.any():
        return None
    if missing.all():
        return f"query: {scorer.reason(row['query_kind'], row['query'])}"
    if row["pool"] is None:
        return f"candidate: {scorer.reason(row['candidate_kind'], candidates[int(np.argmax(missing))])}"
    if missing[row["labels"]].all():
        return f"right candidate: {scorer.reason(row['candidate_kind'], candidates[row['labels'][0]])}"
    return None
