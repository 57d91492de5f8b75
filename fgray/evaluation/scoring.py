"""From scores to one row per case: every score, the ranks, the margin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.data.cases import CaseSet
from fgray.metrics.ranking import rank_counts
from fgray.runs import SAMPLE_SCHEMA

POOL_SHOWN = 10  # candidates of a pool that a sample lists

Scores = npt.NDArray[np.float64]


class Scorer(Protocol):
    """Where a case's scores come from. A reference that has no score (a quarantined image) gives NaN."""

    def scores(self, query_kind: str, query: str, candidate_kind: str, candidates: Sequence[str]) -> Scores:
        """Return [N] scores of the candidates of one query."""
        ...

    def pool_scores(self, query_kind: str, queries: Sequence[str], candidate_kind: str, pool: Sequence[str]) -> Iterator[Scores]:
        """Yield [N] scores of the pool's members for each query."""
        ...

    def reason(self, kind: str, reference: str) -> str:
        """Return why a reference has no score."""
        ...


def score_cases(benchmark: str, cases: CaseSet, scorer: Scorer) -> pa.Table:
    """Score every case and return rows of ``SAMPLE_SCHEMA``, sorted by (subset, task, case id)."""
    rows = sorted(cases.table.to_pylist(), key=lambda row: (row["subset"], row["task"], row["case_id"]))
    pooled = _pool_scores(cases, rows, scorer)
    samples = []
    for row in rows:
        if row["pool"] is None:
            scores = scorer.scores(row["query_kind"], row["query"], row["candidate_kind"], row["candidates"])
        else:
            scores = next(pooled[_pool_key(row)])
        samples.append(_sample(benchmark, row, scores, cases, scorer))
    return pa.Table.from_pylist(samples, schema=SAMPLE_SCHEMA)


def _pool_key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["pool"], row["query_kind"], row["candidate_kind"]


def _pool_scores(cases: CaseSet, rows: Sequence[Mapping[str, Any]], scorer: Scorer) -> dict[tuple[str, str, str], Iterator[Scores]]:
    """Start one stream of score rows per pool; each yields in the order of `rows`."""
    queries: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["pool"] is not None:
            queries.setdefault(_pool_key(row), []).append(row["query"])
    return {key: scorer.pool_scores(key[1], texts, key[2], cases.pools[key[0]]) for key, texts in queries.items()}


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
