"""The wrong candidates of a benchmark's cases as rows of negatives."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from fgray.benchmarks.base import LoadedBenchmark
from fgray.errors import ConfigError

_NEGATIVE = pa.struct([pa.field("ref", pa.string()), pa.field("type", pa.string()), pa.field("valid", pa.bool_())])
SCHEMA = pa.schema(
    [
        pa.field("direction", pa.string()),
        pa.field("anchor", pa.string()),
        pa.field("positive", pa.string()),
        pa.field("negatives", pa.list_(_NEGATIVE)),
    ]
)
"""The columns of ``NEGATIVE_SCHEMA`` that training reads."""


def case_negatives(loaded: LoadedBenchmark) -> pa.Table:
    """Return one row per case and right candidate, its wrong candidates as negatives of the subset's name; control subsets have none.

    Raises:
        ConfigError: the candidates are a shared pool or class prototypes, or nothing asks across images and texts.
    """
    rows = []
    for case in loaded.cases.table.to_pylist():
        if case["subset"] in loaded.control_subsets:
            continue
        if case["pool"] is not None or case["candidate_kind"] == "prototype":
            what = f"the cases of '{loaded.info.name}' choose from a pool of candidates, which are no hard negatives"
            raise ConfigError(what, where="sources.cases", fix="mine negatives instead, and name their file")
        if case["query_kind"] != case["candidate_kind"]:
            rows += _rows(case)
    if not rows:
        what = f"the cases of '{loaded.info.name}' have no wrong candidates"
        raise ConfigError(what, where="sources.cases", fix="leave cases out")
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _rows(case: dict[str, Any]) -> list[dict[str, Any]]:
    right = set(case["labels"])
    wrong = [candidate for position, candidate in enumerate(case["candidates"]) if position not in right]
    if not wrong:
        return []
    direction = f"{case['query_kind']}_to_{case['candidate_kind']}"
    negatives = [{"ref": candidate, "type": case["subset"], "valid": True} for candidate in wrong]
    return [
        {"direction": direction, "anchor": case["query"], "positive": case["candidates"][label], "negatives": negatives}
        for label in sorted(right)
    ]
