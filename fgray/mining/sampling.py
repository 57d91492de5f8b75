"""Which (anchor, positive) rows an audit looks at, and what the search found for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fgray.mining.candidates import Sides
from fgray.mining.vectors import VectorSet

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """n (anchor, positive) rows, and what the search found for their anchors.

    Attributes:
        anchor: row of the anchors' side, int64 [n].
        positive: row of the positives' side, int64 [n]; -1 where there is none.
        positive_score: its cosine, float64 [n]; NaN where there is none.
        vectors: of the anchors, as the search stores them, fp32 [n, D].
        neighbours: rows of the corpus by (score descending, row), int64 [n, k]; -1 where there are fewer.
        scores: their cosines, float64 [n, k].
    """

    anchor: Rows
    positive: Rows
    positive_score: Floats
    vectors: npt.NDArray[np.float32]
    neighbours: Rows
    scores: Floats


def sample_rows(sides: Sides, anchor: Rows, positive: Rows, count: int, seed: int) -> Rows:
    """Choose (anchor, positive) rows whose anchors have images, no two of which share one.

    The order of choice is a hash of the keys: a row's turn depends neither on its number nor on the size of the job.

    Args:
        sides: of the direction.
        anchor: row of the anchors' side of every (anchor, positive), [R].
        positive: row of the positives' side, [R]; -1 where there is none.
        count: how many; fewer come back where fewer disjoint ones exist.
        seed: of the choice.

    Returns:
        Positions in [0, R), sorted.
    """
    links = sides.anchors.images
    order = sorted(range(len(anchor)), key=lambda at: hash_of(seed, "anchor", *keys_of(sides, int(anchor[at]), int(positive[at]))))
    used: set[int] = set()
    chosen: list[int] = []
    for at in order:
        if len(chosen) == count:
            break
        images = entries(links, int(anchor[at]))
        if images and used.isdisjoint(images):
            used.update(images)
            chosen.append(at)
    return np.array(sorted(chosen), np.int64)


def take_sample(
    rows: Rows, anchor: Rows, positive: Rows, scores: Floats, vectors: VectorSet, blocks: Iterable[tuple[int, Rows, Floats]]
) -> Sample:
    """Gather what is known of the chosen rows, one block of neighbours at a time.

    Args:
        rows: what `sample_rows` returned.
        anchor: as given to `sample_rows`.
        positive: likewise.
        scores: cosine of every (anchor, positive), [R].
        vectors: of the anchors' side.
        blocks: first anchor, corpus rows [m, k] and scores [m, k] of the search, covering all anchors.
    """
    wanted = anchor[rows]
    values = np.zeros((len(rows), vectors.dim), np.float32)
    for number in np.unique(wanted // vectors.block_rows).tolist():
        here = np.flatnonzero(wanted // vectors.block_rows == number)
        values[here] = vectors.block(number)[wanted[here] - number * vectors.block_rows]
    found: dict[int, tuple[Rows, Floats]] = {}
    for first, neighbours, cosines in blocks:
        for at in np.flatnonzero((wanted >= first) & (wanted < first + len(neighbours))).tolist():
            found[at] = (neighbours[wanted[at] - first].copy(), cosines[wanted[at] - first].copy())
    if not len(rows):
        return Sample(wanted, positive[rows], scores[rows], values, np.zeros((0, 0), np.int64), np.zeros((0, 0)))
    neighbours, cosines = (np.stack(column) for column in zip(*(found[at] for at in range(len(rows))), strict=True))
    return Sample(wanted, positive[rows], scores[rows], values, neighbours, cosines)


def keys_of(sides: Sides, anchor: int, positive: int) -> list[str]:
    """Return the anchor's key, then the positive's where there is one."""
    keys = [sides.anchors.keys[anchor]]
    return keys if positive < 0 or sides.positives is None else [*keys, sides.positives.keys[positive]]


def entries(links: sparse.csr_matrix | sparse.csc_matrix, line: int) -> list[int]:
    """Return the places of a row of a csr matrix, or of a column of a csc matrix, that are set."""
    found: list[int] = links.indices[links.indptr[line] : links.indptr[line + 1]].tolist()
    return found


def hash_of(seed: int, *parts: str) -> bytes:
    """Return a hash to order by: a seeded choice that depends on the content of what is chosen from, not on its order."""
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).digest()
