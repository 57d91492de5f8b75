"""The report of a text_negatives run: what was made of the captions, and how well a blind model tells it apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from fgray.data.negatives import read_negatives
from fgray.report import wording
from fgray.report.edits import highlight
from fgray.report.page import render, write_page
from fgray.runs import RunFolder

PER_TYPE = 12
_REASONS = 4
_CAPTIONS = 2_000  # that cards are drawn from


@dataclass(frozen=True)
class TypeRow:
    """One kind of negative in the table.

    Attributes:
        generator, kind: its names.
        made, valid, refined_away: counts.
        invalid: reason -> count, the most frequent first.
        blind: its entry of metrics.json, None where blind accuracy was not measured.
        before: that entry before refinement, None where nothing was refined.
    """

    generator: str
    kind: str
    made: int
    valid: int
    refined_away: int
    invalid: list[tuple[str, int]]
    blind: Mapping[str, Any] | None
    before: Mapping[str, Any] | None


@dataclass(frozen=True)
class EditCard:
    """A caption and one of its negatives, the edit marked in the latter."""

    generator: str
    kind: str
    caption: str
    negative: Markup
    text: str
    original: str | None
    plausibility: float | None
    reason: str

    @property
    def search(self) -> str:
        """What the search field looks through, in lower case."""
        return f"{self.caption} {self.text} {self.reason}".lower()


def write_text_negatives_report(run: RunFolder) -> str:
    """Write ``report.html`` from the run folder's other files and return its URI.

    Args:
        run: folder with run.json, metrics.json, negatives.parquet and quarantine.parquet.

    Raises:
        NotFound: one of these files is missing.
        StorageError: the page cannot be written.
    """
    table, _ = read_negatives(run.uri)
    facts, metrics = run.read_run(), run.read_json(run.METRICS)
    cards = edit_cards(table)
    rows = type_rows(metrics)
    page = render(
        "text_negatives.html.j2",
        run=facts,
        card=(facts.get("model") or {}).get("card") or {},
        metrics=metrics,
        rows=rows,
        overall=metrics["metrics"].get("blind/accuracy"),
        by_sum=metrics["metrics"].get("blind/sum_accuracy"),
        made=sum(row.made for row in rows),
        valid=sum(row.valid for row in rows),
        refined_away=sum(row.refined_away for row in rows),
        interval=wording.interval,
        cards=cards,
        generators=sorted({card.generator for card in cards}),
        kinds=sorted({card.kind for card in cards}),
        quarantine=run.read_table(run.QUARANTINE).num_rows,
        config=json.dumps(facts.get("config") or {}, indent=2, ensure_ascii=False),
    )
    return write_page(page, f"{run.uri.rstrip('/')}/{run.REPORT}")


def type_rows(metrics: Mapping[str, Any]) -> list[TypeRow]:
    """Return the table's rows in the order of generators and types."""
    before = metrics.get("before_refinement") or {}
    found = []
    for generator, types in metrics["text_negatives"].items():
        for kind, entry in types.items():
            name = f"blind/{generator}/{kind}/accuracy"
            reasons = sorted(entry["invalid"].items(), key=lambda item: (-item[1], item[0]))[:_REASONS]
            numbers = (entry["made"], entry["valid"], entry["refined_away"])
            found.append(TypeRow(generator, kind, *numbers, reasons, metrics["metrics"].get(name), before.get(name)))
    return found


def edit_cards(table: pa.Table, count: int = PER_TYPE, seed: int = 0) -> list[EditCard]:
    """Return a seeded choice of valid negatives, `count` of each generator and type, the kinds in turns."""
    groups: dict[tuple[str, str], list[EditCard]] = {}
    for row in np.random.default_rng(seed).permutation(table.num_rows)[:_CAPTIONS].tolist():
        line = table.slice(row, 1).to_pylist()[0]
        for negative in line["negatives"]:
            generator = negative["source"].partition(" ")[0]
            group = groups.setdefault((generator, negative["type"]), [])
            if negative["valid"] and len(group) < count:
                group.append(_card(generator, line["anchor"], negative))
    ordered = [groups[key] for key in sorted(groups)]
    return [card for turn in zip_longest(*ordered) for card in turn if card is not None]


def _card(generator: str, caption: str, negative: Mapping[str, Any]) -> EditCard:
    return EditCard(
        generator=generator,
        kind=negative["type"],
        caption=caption,
        negative=highlight(negative["ref"], negative["start"], negative["end"]),
        text=negative["ref"],
        original=negative["original"],
        plausibility=negative["plausibility"],
        reason=negative["reason"],
    )
