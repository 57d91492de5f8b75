"""Controls that show a benchmark measures what it says: labels drawn at random must score at chance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fgray.config.schema import StatsConfig
from fgray.metrics.ranking import rank_counts
from fgray.metrics.spec import AnyMetric, Metric
from fgray.metrics.summary import summarise


def shuffled_controls(samples: pa.Table, metrics: Sequence[AnyMetric], stats: StatsConfig) -> dict[str, dict[str, Any]]:
    """Score the same model against labels drawn at random and return control entries named ``…/shuffled_METRIC``.

    The draw is a hash of the case id and the seed, so it depends on neither order nor count of the cases.
    """
    rows = samples.to_pylist()
    for row in rows:
        if row["scores"] is None or row["pool"] is not None:
            continue
        digest = hashlib.sha256(f"{stats.seed}/{row['task']}/{row['case_id']}".encode()).digest()
        label = int.from_bytes(digest[:8], "big") % len(row["scores"])
        counts = rank_counts(np.array(row["scores"]), [label])
        row.update(
            labels=[label],
            num_positives=1,
            **{name: getattr(counts, name) for name in ("greater", "tied", "tied_before", "tied_positives", "margin")},
        )
    plain = [metric for metric in metrics if isinstance(metric, Metric)]
    entries = summarise(pa.Table.from_pylist(rows, schema=samples.schema), plain, stats)
    note = "labels drawn at random: must lie at chance"
    return {_control_name(name): {**entry, "note": note} for name, entry in entries.items()}


def _control_name(name: str) -> str:
    prefix, _, metric = name.rpartition("/")
    return f"{prefix}/shuffled_{metric}"
