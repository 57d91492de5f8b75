"""The report of a loop: what each arm changed, what the gates say, and what several seeds say together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fgray.report.page import render, write_page
from fgray.runs import RunFolder


def write_loop_report(run: RunFolder) -> str:
    """Write ``report.html`` from run.json and verdict.json, and return its URI.

    Raises:
        NotFound: one of these files is missing.
        StorageError: the page cannot be written.
    """
    facts, content = run.read_run(), run.read_json("verdict.json")
    page = render(
        "loop.html.j2",
        run=facts,
        verdict=content,
        seeds={seed: table(one) for seed, one in content["seeds"].items()},
        config=json.dumps(facts.get("config"), indent=1, ensure_ascii=False),
    )
    return write_page(page, f"{run.uri}/{run.REPORT}")


def table(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per metric: its value before, and each arm's value, change, interval and p value; primary metrics first."""
    arms = verdict["arms"]
    names = list(next(iter(arms.values()))["metrics"])
    rows = []
    for name in sorted(names, key=lambda name: not next(iter(arms.values()))["metrics"][name]["primary"]):
        cells = []
        for facts in arms.values():
            cell = facts["metrics"][name]
            gate = next((gate for gate in facts["gates"] if gate["metric"] == name), None)
            cells.append({**cell, "interval": cell.get("ci95") or cell["ci"], "gate": gate})
        rows.append({"name": name, "before": cells[0]["before"], "primary": cells[0]["primary"], "cells": cells})
    return rows
