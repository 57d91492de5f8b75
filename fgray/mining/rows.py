"""From neighbours to rows of the negatives file: margins, filters, counts and histograms, one block of anchors at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.config.schema import Direction
from fgray.data.negatives import NEGATIVE, NEGATIVE_SCHEMA
from fgray.mining.candidates import Candidates, Sides
from fgray.mining.filters import Chain, reasons, run_chain
from fgray.mining.resources import Resources
from fgray.mining.riskiest import Riskiest
from fgray.mining.vectors import VectorSet

EDGES = np.linspace(-1.0, 1.0, 81)  # of both histograms
Rows = npt.NDArray[np.int64]
Block = tuple[int, Rows, npt.NDArray[np.float64]]


@dataclass
class Tally:
    """What a direction's mining counted."""

    anchors: int
    rows: int
    candidates: int = 0
    kept: int = 0
    short_rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    score_kept: Rows = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))
    score_dropped: Rows = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))
    margin_kept: Rows = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))
    margin_dropped: Rows = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))

    def add(self, before: Candidates, after: Candidates, dropped: dict[str, int], short: int) -> None:
        """Count one block."""
        self.candidates += len(before)
        self.kept += len(after)
        self.short_rows += short
        for name, count in dropped.items():
            self.dropped[name] = self.dropped.get(name, 0) + count
        for name in ("score", "margin"):
            kept, everything = _histogram(getattr(after, name)), _histogram(getattr(before, name))
            setattr(self, f"{name}_kept", getattr(self, f"{name}_kept") + kept)
            setattr(self, f"{name}_dropped", getattr(self, f"{name}_dropped") + everything - kept)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        counts = {name: getattr(self, name) for name in ("anchors", "rows", "candidates", "kept", "short_rows", "dropped")}
        edges = [round(float(edge), 6) for edge in EDGES]

        def shape(name: str) -> dict[str, Any] | None:
            kept, dropped = getattr(self, f"{name}_kept"), getattr(self, f"{name}_dropped")
            return {"edges": edges, "kept": kept.tolist(), "dropped": dropped.tolist()} if kept.sum() + dropped.sum() else None

        return {**counts, "score_histogram": shape("score"), "margin_histogram": shape("margin")}


def _histogram(values: npt.NDArray[np.float64]) -> Rows:
    return np.histogram(np.clip(values[~np.isnan(values)], EDGES[0], EDGES[-1]), EDGES)[0].astype(np.int64)


def positive_scores(anchors: VectorSet, positives: VectorSet | None, anchor: Rows, positive: Rows) -> npt.NDArray[np.float64]:
    """Return the exact cosine of every (anchor, positive) row, float64 [R]; NaN where there is no positive.

    Args:
        anchors: the anchors' vectors; one block is held at a time.
        positives: the positives' vectors, likewise; None where the direction has none.
        anchor: row numbers of the anchors, [R].
        positive: row numbers of the positives, [R]; -1 where there is none.
    """
    scores = np.full(len(anchor), np.nan)
    if positives is None:
        return scores
    for a in np.unique(anchor // anchors.block_rows):
        left = anchors.block(int(a)).astype(np.float64)
        here = np.flatnonzero(anchor // anchors.block_rows == a)
        for p in np.unique(positive[here] // positives.block_rows):
            right = positives.block(int(p)).astype(np.float64)
            rows = here[positive[here] // positives.block_rows == p]
            pairs = (left[anchor[rows] - a * anchors.block_rows], right[positive[rows] - p * positives.block_rows])
            scores[rows] = np.einsum("nd,nd->n", *pairs)
    return scores


def expand(block: Block, anchor: Rows, positive: Rows, scores: npt.NDArray[np.float64]) -> Candidates:
    """Return the candidates of every (anchor, positive) row whose anchor the block holds.

    Args:
        block: first anchor, then neighbours' corpus rows (-1: none) and scores [n, k].
        anchor: row numbers of every (anchor, positive) row of the direction, sorted.
        positive: of the same rows.
        scores: of the same rows, see `positive_scores`.
    """
    first, neighbours, cosines = block
    low, high = np.searchsorted(anchor, [first, first + len(neighbours)])
    numbers = np.arange(low, high)
    own = anchor[low:high] - first
    found = neighbours[own]
    row, place = np.nonzero(found >= 0)
    score = cosines[own][row, place]
    return Candidates(
        row=numbers[row],
        anchor=anchor[low:high][row],
        positive=positive[low:high][row],
        corpus=found[row, place],
        score=score,
        rank=(place + 1).astype(np.int32),
        margin=scores[low:high][row] - score,
    )


@dataclass(frozen=True)
class RowMaker:
    """Filters blocks of candidates and words what survives.

    Attributes:
        direction: what is searched for whom.
        sides: its keys and links.
        filters: the chain.
        resources: for the filters.
        wanted: negatives that a row should have; rows with fewer are counted as short.
        searched: candidates per anchor.
        origin: what `source` of a negative says.
    """

    direction: Direction
    sides: Sides
    filters: Chain
    resources: Resources
    wanted: int
    searched: int
    origin: str

    def make(self, before: Candidates, scores: npt.NDArray[np.float64], tally: Tally, riskiest: Riskiest) -> pa.Table:
        """Return the block's rows of ``NEGATIVE_SCHEMA``; an anchor without any negative left has no row."""
        after, dropped = run_chain(self.filters, before, self.sides, self.resources)
        present, counts = np.unique(after.row, return_counts=True)
        riskiest.add(after)
        everything = len(np.unique(before.row))
        tally.add(before, after, dropped, int((counts < self.wanted).sum()) + (everything - len(present) if self.wanted else 0))
        return self._table(after, scores)

    def _table(self, kept: Candidates, scores: npt.NDArray[np.float64]) -> pa.Table:
        anchors, corpus, positives = self.sides.anchors, self.sides.corpus, self.sides.positives
        rows, starts = np.unique(kept.row, return_index=True)
        count = len(rows)
        nothing = [None] * len(kept)
        columns: dict[str, Any] = {
            "ref": [corpus.keys[place] for place in kept.corpus.tolist()],
            "score": kept.score,
            "margin": np.ma.masked_invalid(kept.margin),
            "rank": kept.rank,
            "type": ["mined"] * len(kept),
            "start": nothing,
            "end": nothing,
            "original": nothing,
            "plausibility": nothing,
            "valid": [True] * len(kept),
            "source": [self.origin] * len(kept),
            "reason": reasons(kept, self.filters, self.searched),
        }
        arrays = [pa.array(columns[item.name], item.type) for item in NEGATIVE]
        flat = pa.StructArray.from_arrays(arrays, fields=list(NEGATIVE))
        offsets = pa.array(np.append(starts, len(kept)), pa.int32())
        positive = kept.positive[starts]
        names = None if positives is None else [positives.keys[place] for place in positive.tolist()]
        return pa.table(
            {
                "direction": [self.direction] * count,
                "anchor_kind": [anchors.kind] * count,
                "anchor": [anchors.keys[place] for place in kept.anchor[starts].tolist()],
                "positive_kind": [None if positives is None else positives.kind] * count,
                "positive": pa.array(names, pa.string()) if names is not None else pa.nulls(count, pa.string()),
                "positive_score": pa.array(scores[rows], mask=np.isnan(scores[rows])),
                "negative_kind": [corpus.kind] * count,
                "negatives": pa.ListArray.from_arrays(offsets, flat),
            },
            schema=NEGATIVE_SCHEMA,
        )


def blocks_of_rows(blocks: Iterator[Block], anchor: Rows, positive: Rows, scores: npt.NDArray[np.float64]) -> Iterator[Candidates]:
    """Yield the candidates of every block of neighbours that holds an anchor of some row."""
    for block in blocks:
        candidates = expand(block, anchor, positive, scores)
        if len(candidates):
            yield candidates
