"""The report of a distractors run: which labels are confused, and the questions themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fgray.report import wording
from fgray.report.cards import Candidate, Card
from fgray.report.page import render, write_page
from fgray.report.pictures import Pictures
from fgray.runs import RunFolder

TABLE_FILE = "distractors.parquet"
PICTURE_BYTES = 3_000_000
_SIDE = 224
_CARDS = 120
_ROWS = 400
_SHOWN = 6


@dataclass(frozen=True)
class Confusion:
    """One label: how often the encoder knows it, and the wrong labels that its questions offer most."""

    label: str
    questions: int
    first: int
    wrong: list[tuple[str, int]]
    others: int


def write_distractors_report(run: RunFolder, load_image: Callable[[str], bytes]) -> str:
    """Write ``report.html`` from the run folder's other files and return its URI.

    Args:
        run: folder with run.json, metrics.json, distractors.parquet and quarantine.parquet.
        load_image: image key -> encoded image, for the cards.

    Raises:
        NotFound: one of these files is missing.
        StorageError: the page cannot be written.
    """
    table, facts, metrics = run.read_table(TABLE_FILE), run.read_run(), run.read_json(run.METRICS)
    pictures = Pictures(lambda _, key: load_image(key), PICTURE_BYTES)
    rows = confusions(table)
    page = render(
        "distractors.html.j2",
        run=facts,
        classes=facts.get("classes") or {},
        model=(facts.get("model") or {}).get("card") or {},
        metrics=metrics,
        rows=rows[:_ROWS],
        all_rows=len(rows),
        cards=question_cards(table, pictures),
        card_sentence=_sentence,
        quarantine=run.read_table(run.QUARANTINE).num_rows,
        config=json.dumps(facts.get("config") or {}, indent=2, ensure_ascii=False),
    )
    return write_page(page, f"{run.uri.rstrip('/')}/{run.REPORT}")


def confusions(table: pa.Table) -> list[Confusion]:
    """Return the labels, those that the encoder knows least first."""
    first: dict[str, list[bool]] = {}
    wrong: dict[str, dict[str, int]] = {}
    for label, rank, options in zip(*(table[name].to_pylist() for name in ("label", "label_rank", "options")), strict=True):
        first.setdefault(label, []).append(rank == 1)
        counts = wrong.setdefault(label, {})
        for option in options:
            counts[option] = counts.get(option, 0) + 1
    found = []
    for label, hits in first.items():
        ordered = sorted(wrong[label].items(), key=lambda item: (-item[1], item[0]))
        found.append(Confusion(label, len(hits), sum(hits), ordered[:_SHOWN], len(ordered[_SHOWN:])))
    return sorted(found, key=lambda row: (row.first / row.questions, row.label))


def question_cards(table: pa.Table, pictures: Pictures) -> list[Card]:
    """Return cards of questions drawn with a fixed seed, as many as the budget of `pictures` allows."""
    order = np.random.default_rng(0).permutation(table.num_rows)[:_CARDS]
    cards = []
    for row in table.take(pa.array(order)).to_pylist():
        if pictures.full:
            break
        cards.append(_card(row, pictures))
    return cards


def _card(row: Mapping[str, Any], pictures: Pictures) -> Card:
    known = row["label_rank"] == 1
    last = len(row["options"])  # the most similar wrong label stands last
    candidates = [Candidate(row["label"], None, 0, row["label_score"], True, known)]
    for position, (option, score) in enumerate(zip(row["options"], row["scores"], strict=True), 1):
        candidates.append(Candidate(option, None, position, score, False, not known and position == last))
    return Card(
        benchmark="",
        subset=row["label"],
        task="classify",
        success=known,
        case_id=row["file"],
        query=row["image"],
        picture=pictures.get("", row["image"], _SIDE),
        candidates=candidates,
        num_candidates=len(candidates),
        rank=row["label_rank"],
        tied=0,
        margin=row["label_score"] - row["scores"][-1],
        pooled=True,
    )


def _sentence(card: Card) -> str:
    return f"right label at rank {wording.number(card.rank)} of all"
