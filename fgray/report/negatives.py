"""Cards of mined negatives: an anchor, its positive and what was found for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from fgray.report.edits import highlight
from fgray.report.pictures import Picture, Pictures

T = TypeVar("T")
PER_DIRECTION = 24
_SHOWN = 4  # negatives on a card
_ANCHOR_SIDE, _SIDE = 224, 160


@dataclass(frozen=True)
class Item:
    """A positive or a negative on a card: a picture, or a text with its edit marked."""

    key: str
    picture: Picture | None
    html: Markup
    right: bool
    score: float | None
    margin: float | None
    rank: int | None
    reason: str


@dataclass(frozen=True)
class NegativeCard:
    """One anchor of the gallery; `group` is riskiest or sample."""

    group: str
    direction: str
    anchor: str
    picture: Picture | None
    items: list[Item]
    more: int

    @property
    def pictures(self) -> list[Item]:
        """The items that are images, the positive first."""
        return [item for item in self.items if item.picture]

    @property
    def texts(self) -> list[Item]:
        """The items that are texts, the positive first."""
        return [item for item in self.items if not item.picture]

    @property
    def reasons(self) -> list[str]:
        """Why each negative was kept, in their order."""
        return [item.reason for item in self.items if not item.right]

    @property
    def search(self) -> str:
        """What the search field looks through, in lower case."""
        return " ".join([self.anchor, *(item.key for item in self.items)]).lower()


def choose(table: pa.Table, count: int = PER_DIRECTION, seed: int = 0) -> list[int]:
    """Return row numbers of the negatives file: a seeded choice of rows that have negatives, the directions in turns."""
    filled = pc.greater(pc.list_value_length(table["negatives"]), 0).to_numpy(zero_copy_only=False)
    directions = np.array(table["direction"].to_pylist(), object)
    chosen = []
    for direction in dict.fromkeys(directions):
        rows = np.flatnonzero(filled & (directions == direction))
        chosen.append(np.random.default_rng(seed).permutation(rows)[:count].tolist())
    return _turns(chosen)


def _turns(groups: Iterable[Sequence[T]]) -> list[T]:
    """The first of each group, then the second of each: a page cut short still shows all of them."""
    return [item for turn in zip_longest(*groups) for item in turn if item is not None]


def sample_cards(table: pa.Table, rows: Iterable[int], pictures: Pictures) -> list[NegativeCard]:
    """Return the cards of some rows of the negatives file with their hardest negatives, while the budget of `pictures` lasts."""
    cards = []
    for row in rows:
        if pictures.full:
            break
        line = table.slice(row, 1).to_pylist()[0]
        cards.append(_card("sample", line, line["negatives"], pictures))
    return cards


def risky_cards(table: pa.Table, riskiest: Sequence[Mapping[str, Any]], pictures: Pictures) -> list[NegativeCard]:
    """Return one card for each survivor that metrics.json names, the directions in turns, while the budget of `pictures` lasts."""
    places = _places(table, riskiest)
    groups = [[risk for risk in riskiest if risk["direction"] == name] for name in dict.fromkeys(risk["direction"] for risk in riskiest)]
    cards = []
    for risk in _turns(groups):
        if pictures.full:
            break
        row = places.get((risk["direction"], risk["anchor"], risk["positive"]))
        if row is None:
            continue  # metrics.json of another run; the page counts what it shows
        line = table.slice(row, 1).to_pylist()[0]
        named = [negative for negative in line["negatives"] if negative["ref"] == risk["negative"]]
        if named:
            cards.append(_card("riskiest", line, named[:1], pictures))
    return cards


def _places(table: pa.Table, riskiest: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str | None], int]:
    """Return (direction, anchor, positive) -> row, for the anchors that are asked for."""
    keys = table.select(["direction", "anchor", "positive"]).append_column("row", pa.array(np.arange(table.num_rows)))
    keys = keys.filter(pc.is_in(keys["anchor"], value_set=pa.array([risk["anchor"] for risk in riskiest], pa.string())))
    return {(row["direction"], row["anchor"], row["positive"]): row["row"] for row in keys.to_pylist()}


def _card(group: str, line: Mapping[str, Any], negatives: Sequence[Mapping[str, Any]], pictures: Pictures) -> NegativeCard:
    items = []
    if line["positive"] is not None:
        facts = {"ref": line["positive"], "score": line["positive_score"]}
        items.append(_item(facts, line["positive_kind"], True, pictures))
    items += [_item(negative, line["negative_kind"], False, pictures) for negative in negatives[:_SHOWN]]
    picture = pictures.get("", line["anchor"], _ANCHOR_SIDE) if line["anchor_kind"] == "image" else None
    return NegativeCard(group, line["direction"], line["anchor"], picture, items, len(negatives[_SHOWN:]))


def _item(facts: Mapping[str, Any], kind: str, right: bool, pictures: Pictures) -> Item:
    image = kind == "image"
    return Item(
        key=facts["ref"],
        picture=pictures.get("", facts["ref"], _SIDE) if image else None,
        html=Markup("") if image else highlight(facts["ref"], facts.get("start"), facts.get("end")),
        right=right,
        score=facts.get("score"),
        margin=facts.get("margin"),
        rank=facts.get("rank"),
        reason=facts.get("reason") or "",
    )
