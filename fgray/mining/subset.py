"""A few rows of a direction's sides, as sides of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fgray.data.index import ImageIndex
from fgray.mining.candidates import Side, Sides

Rows = npt.NDArray[np.int64]


def subset(side: Side, rows: Rows) -> Side:
    """Return some rows of a side.

    Args:
        side: all rows.
        rows: which, ascending and distinct, so that the order stays that of the keys.
    """
    places: list[tuple[ImageIndex, Sequence[str]]] = []
    first = 0
    for index, keys in side.places:
        here = rows[(rows >= first) & (rows < first + len(keys))] - first
        if len(here):
            places.append((index, [keys[at] for at in here.tolist()]))
        first += len(keys)
    kept = [side.keys[row] for row in rows.tolist()]
    return replace(side, keys=kept, images=side.images[rows], labels=side.labels[rows], places=tuple(places))


def subset_sides(sides: Sides, anchors: Rows, positives: Rows, corpus: Rows) -> Sides:
    """Return some rows of anchors, positives and corpus, with the captions of all images that these are or describe.

    The images themselves stay as they are, because links count them.
    """
    few = replace(
        sides,
        anchors=subset(sides.anchors, anchors),
        corpus=subset(sides.corpus, corpus),
        positives=None if sides.positives is None else subset(sides.positives, positives),
    )
    known = (side for side in (few.anchors, few.corpus, few.positives) if side is not None)
    images = np.unique(np.concatenate([side.images.indices for side in known]))
    captions = np.unique(sides.texts.images.tocsc()[:, images].indices)
    return replace(few, texts=subset(sides.texts, captions.astype(np.int64)))
