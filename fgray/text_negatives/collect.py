"""From generated negatives to rows of the negatives file: plausibility, refinement, counts by type and reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from fgray.data.negatives import NEGATIVE_SCHEMA
from fgray.text_negatives.blind import BlindPair, Likelihood
from fgray.text_negatives.generator import Negative
from fgray.text_negatives.refine import keep_symmetric

DECIMALS = 6  # of plausibility in the file


@dataclass(frozen=True)
class Made:
    """One negative of the set.

    Attributes:
        caption: what it was made from.
        generator: label of its generator.
        source: that generator with its options.
        number: its place among the negatives that its generator made of the caption.
        negative: the edit.
        plausibility: log-likelihood per token of the edited text minus the caption's; None where not measured.
    """

    caption: str
    generator: str
    source: str
    number: int
    negative: Negative
    plausibility: float | None = None


def with_plausibility(made: Sequence[Made], likelihoods: Mapping[str, Likelihood]) -> list[Made]:
    """Return the negatives with the plausibility of the valid ones whose two texts were scored."""
    found = []
    for one in made:
        positive, negative = likelihoods.get(one.caption), likelihoods.get(one.negative.text)
        if one.negative.valid and positive is not None and negative is not None:
            one = replace(one, plausibility=round(negative.per_token - positive.per_token, DECIMALS))
        found.append(one)
    return found


def blind_pairs(made: Sequence[Made], likelihoods: Mapping[str, Likelihood]) -> list[BlindPair]:
    """Return what blind accuracy is measured on: every negative with a plausibility."""
    return [
        BlindPair(one.generator, one.negative.type, one.caption, likelihoods[one.caption], likelihoods[one.negative.text])
        for one in made
        if one.plausibility is not None
    ]


def refined(made: Sequence[Made], seed: int) -> list[Made]:
    """Return the negatives without those that adversarial refinement drops, type by type.

    Invalid ones stay; valid ones without a plausibility go, since nothing is known of their gap.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for position, one in enumerate(made):
        if one.plausibility is not None:
            groups.setdefault((one.generator, one.negative.type), []).append(position)
    kept = {position for position, one in enumerate(made) if not one.negative.valid}
    for positions in groups.values():
        gaps = [-(made[position].plausibility or 0.0) for position in positions]
        keys = [f"{made[position].caption}\n{made[position].number}" for position in positions]
        kept.update(position for position, stays in zip(positions, keep_symmetric(gaps, keys, seed), strict=True) if stays)
    return [one for position, one in enumerate(made) if position in kept]


def counts(made: Sequence[Made], kept: Sequence[Made]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return generator -> type -> made, valid, refined_away and invalid by reason."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for one in made:
        entry = found.setdefault(one.generator, {}).setdefault(
            one.negative.type, {"made": 0, "valid": 0, "refined_away": 0, "invalid": Counter()}
        )
        entry["made"] += 1
        if one.negative.valid:
            entry["valid"] += 1
            entry["refined_away"] += 1
        else:
            entry["invalid"][_without_words(one.negative.reason)] += 1
    for one in kept:
        if one.negative.valid:
            found[one.generator][one.negative.type]["refined_away"] -= 1
    for types in found.values():
        for entry in types.values():
            entry["invalid"] = dict(entry["invalid"])
    return found


def _without_words(reason: str) -> str:
    """Return a reason without the caption's own words, which stand in quotes, so that it can be counted."""
    return re.sub(r"'[^']*'", "…", reason)


def rows(made: Sequence[Made]) -> pa.Table:
    """Return rows of ``NEGATIVE_SCHEMA``: one per caption, its negatives in the order of the generators."""
    by_caption: dict[str, list[dict[str, Any]]] = {}
    for one in made:
        by_caption.setdefault(one.caption, []).append(_negative(one))
    common = {"direction": "text_edit", "anchor_kind": "text", "negative_kind": "text"}
    empty = {"positive_kind": None, "positive": None, "positive_score": None}
    lines = [{**common, **empty, "anchor": caption, "negatives": negatives} for caption, negatives in by_caption.items()]
    return pa.Table.from_pylist(lines, schema=NEGATIVE_SCHEMA)


def _negative(one: Made) -> dict[str, Any]:
    edit = one.negative
    return {
        "ref": edit.text,
        "score": None,
        "margin": None,
        "rank": None,
        "type": edit.type,
        "start": edit.start,
        "end": edit.end,
        "original": edit.original,
        "plausibility": one.plausibility,
        "valid": edit.valid,
        "source": one.source,
        "reason": edit.reason,
    }
