"""Builds sample rows for the tests, counting ranks with plain loops (no code of the package)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fgray.runs import SAMPLE_SCHEMA


def count_ranks(scores: Sequence[float], labels: Sequence[int]) -> dict[str, Any]:
    """Count ranks candidate by candidate."""
    best = max(scores[label] for label in labels)
    first = next(i for i in range(len(scores)) if i in labels and scores[i] == best)
    wrong = [i for i in range(len(scores)) if i not in labels]
    return {
        "prediction": next(i for i in range(len(scores)) if scores[i] == max(scores)),
        "greater": sum(1 for i in wrong if scores[i] > best),
        "tied": sum(1 for i in wrong if scores[i] == best),
        "tied_before": sum(1 for i in wrong if scores[i] == best and i < first),
        "tied_positives": sum(1 for i in set(labels) if scores[i] == best),
        "margin": best - max((scores[i] for i in wrong), default=float("-inf")),
    }


def sample(case: str, cluster: str, scores: Sequence[float] | None, labels: Sequence[int] = (0,), **other: Any) -> dict[str, Any]:
    """Return one row of samples.parquet; scores None: an excluded case with two candidates."""
    size = 2 if scores is None else len(scores)
    counts = {} if scores is None else count_ranks(scores, labels)
    row = {
        "benchmark": "toy",
        "subset": "s",
        "task": "i2t",
        "case_id": case,
        "cluster_id": cluster,
        "category": None,
        "query_kind": "image",
        "query": f"image of {case}",
        "candidate_kind": "text",
        "pool": None,
        "shown": list(range(size)),
        "candidates": [f"text {i} of {case}" for i in range(size)],
        "scores": None if scores is None else list(scores),
        "labels": list(labels),
        "num_candidates": size,
        "num_positives": len(labels),
        "excluded": "the image is damaged" if scores is None else None,
        **counts,
    }
    return {**row, **other}


def right(case: str, cluster: str, hit: bool, **other: Any) -> dict[str, Any]:
    """Return a row with two candidates that is a hit or a miss."""
    return sample(case, cluster, [1.0, 0.0] if hit else [0.0, 1.0], **other)


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows as a table of samples."""
    return pa.Table.from_pylist(list(rows), schema=SAMPLE_SCHEMA)
