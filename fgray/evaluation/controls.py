"""Controls that show a benchmark measures what it says: labels drawn at random must score at chance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgray.metrics.ranking import chance_at_k, hit_at_k, rank_counts
from fgray.metrics.spec import AnyMetric, Metric

DRAWS = 20  # one draw of forty two-way labels lies up to 15 points off; the mean of twenty, 3


def shuffled_controls(samples: pa.Table, metrics: Sequence[AnyMetric], seed: int) -> dict[str, dict[str, Any]]:
    """Score the same model against labels drawn at random and return control entries named ``…/shuffled_METRIC``.

    A draw is a hash of case id, number of the draw and seed, so it depends on neither order nor count of the cases.
    Only cases with a candidate list of their own are scored, since of a pool the samples keep just the top.
    """
    controls = {}
    for metric in metrics:
        if isinstance(metric, Metric) and not metric.per_category:
            chosen = pc.and_(pc.equal(samples["subset"], metric.subset), pc.equal(samples["task"], metric.task))
            rows = [row for row in samples.filter(chosen).to_pylist() if row["scores"] is not None and row["pool"] is None]
            if rows:
                prefix, _, name = metric.name.rpartition("/")
                controls[f"{prefix}/shuffled_{name}"] = _score(rows, metric, seed)
    return controls


def _score(rows: Sequence[dict[str, Any]], metric: Metric, seed: int) -> dict[str, Any]:
    counts = [rank_counts(np.array(row["scores"]), [_draw(row, draw, seed)]) for row in rows for draw in range(DRAWS)]
    greater, tied, before, positives = (
        np.array([getattr(one, name) for one in counts]) for name in ("greater", "tied", "tied_before", "tied_positives")
    )
    value = float(hit_at_k(greater, tied, before, positives, metric.k, metric.ties).mean())
    chance = float(np.mean(chance_at_k([len(row["scores"]) for row in rows], 1, metric.k)))
    note = f"labels drawn at random: must lie at chance; mean of {DRAWS} draws"
    return {"value": value, "count": len(rows), "correct": value * len(rows), "chance": chance, "note": note}


def _draw(row: dict[str, Any], draw: int, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}/{draw}/{row['task']}/{row['case_id']}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % len(row["scores"])
