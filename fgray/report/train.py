"""The report of a training run: curves of the loss and of what else was logged, data, evaluations, what was exported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fgray.report import charts
from fgray.report.html import course
from fgray.report.page import render, write_page
from fgray.runs import RunFolder

POINTS = 400  # of a curve; more would not be seen

_PLOTS = (
    ("Learning rate", ("learning_rate",)),
    ("Gradient norm, before clipping", ("gradient_norm",)),
    ("Logit scale", ("logit_scale",)),
    ("Regions of a step, over all workers", ("regions",)),
    ("Pairs per second", ("pairs_per_second",)),
    ("Share of the time that waited for data", ("data_wait_share",)),
)


def write_train_report(run: RunFolder) -> str:
    """Write ``report.html`` from run.json, metrics.json and log.jsonl, and return its URI.

    Raises:
        NotFound: one of these files is missing.
        StorageError: the page cannot be written.
    """
    facts, metrics = run.read_run(), run.read_json(run.METRICS)
    rows = [json.loads(line) for line in run.storage.read_bytes(run.LOG).splitlines()]
    page = render(
        "train.html.j2",
        run=facts,
        model=(facts.get("model") or {}).get("card") or {},
        training=metrics["training"],
        fingerprints=metrics["fingerprints"],
        plots=plots(rows),
        course=course(facts, None),
        starts=(facts.get("timing") or {}).get("starts") or [],
        config=json.dumps(facts.get("config"), indent=1, ensure_ascii=False),
    )
    return write_page(page, f"{run.uri}/{run.REPORT}")


def plots(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str], Markup]]:
    """Return (title, names of the lines, picture) of every curve that the log has."""
    steps = [row for row in rows if "loss" in row]
    terms = ["loss", *sorted({name for row in steps for name in row if name.startswith("loss/")})]
    asked = [("Loss and its terms before their weights", tuple(terms)), *_PLOTS]
    found = []
    for title, names in asked:
        there = [name for name in names if any(row.get(name) is not None for row in steps)]
        if there and len(steps) > 1:
            kept = steps[:: -(-len(steps) // POINTS)]
            values = {name: [row.get(name) for row in kept] for name in there}
            found.append(
                (title, [name.removeprefix("loss/") for name in there], charts.lines([row["step"] for row in kept], values, title))
            )
    chosen = [row for row in rows if row.get("selection") is not None]
    if len(chosen) > 1:
        line = charts.lines([row["step"] for row in chosen], {"selection": [row["selection"] for row in chosen]}, "Selection metric")
        found.append(("Selection metric", ["selection"], line))
    return found
