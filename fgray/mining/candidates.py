"""What filters see: a flat list of (anchor, candidate) pairs, and what is known about both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fgray.data.index import ImageIndex

Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Side:
    """The anchors or the corpus of one direction, row by row.

    Attributes:
        kind: what its rows are.
        keys: image keys, or the texts themselves; sorted, so that a row's number is its place in key order (an audit's
            injected items follow after the sorted ones).
        images: bool [N, number of images]: which images a row stands for: an image for itself, a text for those it describes.
            Rows whose links are hidden (the audit's) are empty.
        labels: bool [N, number of labels]: classes or clusters of those images; empty where none is known.
        places: for images, (index, keys) in the order of the rows, so that their files can be read.
    """

    kind: Kind
    keys: Sequence[str]
    images: sparse.csr_matrix
    labels: sparse.csr_matrix
    places: tuple[tuple[ImageIndex, Sequence[str]], ...] = ()


@dataclass(frozen=True)
class Sides:
    """Both sides of one direction, and what the pairs say about their rows.

    Attributes:
        anchors: what is searched for.
        corpus: what is searched in.
        images: every image that a link names, in the order of the columns of `Side.images`.
        texts: the captions of the pairs, linked to `images`: from an image its captions are found through them.
        positives: what `Candidates.positive` counts; None where anchors have none (image_to_image, text_to_text).
    """

    anchors: Side
    corpus: Side
    images: Side
    texts: Side
    positives: Side | None = None


@dataclass(frozen=True)
class Candidates:
    """Flat arrays of equal length m, sorted by (row, rank).

    Attributes:
        row: which (anchor, positive) row of the block the candidate belongs to.
        anchor: row of the anchors' side.
        positive: row of the positives' side; -1 where the row has no positive.
        corpus: row of the corpus' side.
        score: exact cosine of anchor and candidate, float64.
        rank: 1-based place among the anchor's candidates as the search returned them.
        margin: the positive's score minus `score`; NaN where the row has no positive.
    """

    row: npt.NDArray[np.int64]
    anchor: npt.NDArray[np.int64]
    positive: npt.NDArray[np.int64]
    corpus: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    rank: npt.NDArray[np.int32]
    margin: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, keep: npt.NDArray[Any]) -> Candidates:
        """Return the candidates at a boolean mask or at positions."""
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self)})
