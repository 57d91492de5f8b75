"""Filters that know from the pairs themselves that a candidate is a positive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgray.errors import DataError
from fgray.mining.candidates import Candidates, Sides
from fgray.mining.filters import Filter
from fgray.mining.matching import Members, any_match, captions_of, texts_of
from fgray.mining.resources import Resources

Mask = npt.NDArray[np.bool_]


class SameImage(Filter):
    """Drops what belongs to the anchor's image by the pairs: the image itself, its captions, all images of a caption.

    It drops the row's own positive and, where it is searched among its like, the anchor itself, so that nearly every chain begins
    with it.
    """

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        return ~(_itself(candidates, sides, resources) | any_match(candidates, sides.anchors.images, sides.corpus.images, np.equal))


class SameCaption(Filter):
    """Drops what has the anchor's caption, up to case, punctuation, white space and Unicode's compatible forms.

    The captions of an image are compared where the anchor or the candidate is an image.
    """

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        return ~_same_words(candidates, texts_of(sides.anchors, sides, resources), texts_of(sides.corpus, sides, resources), resources)


class OtherCaptions(Filter):
    """Drops what belongs to an image that shares any caption with the anchor's image: one link further than `same_image`.

    Two images that one caption describes show the same thing, and so the other captions of either fit both. Captions are
    compared as `same_caption` compares them. What `same_image` drops it drops, too.
    """

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        ours, theirs = (captions_of(side, sides, resources) for side in (sides.anchors, sides.corpus))
        return SameImage().keep(candidates, sides, resources) & ~_same_words(candidates, ours, theirs, resources)


class SameLabel(Filter):
    """Drops candidates that share a class or cluster with the anchor."""

    def check(self, sides: Sides) -> None:
        """Refuse anchors, or a corpus, without any label."""
        for what, side in (("anchors", sides.anchors), ("corpus", sides.corpus)):
            if not side.labels.nnz:
                raise DataError(f"the {what} have no labels for filter same_label", fix="remove the filter, or bring pairs with labels")

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        return ~any_match(candidates, sides.anchors.labels, sides.corpus.labels, np.equal)


def _itself(candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
    """Return which candidates are the anchor under its own key: no link says so of a text without an image."""
    if sides.anchors.kind != sides.corpus.kind:
        return np.zeros(len(candidates), bool)

    def places() -> npt.NDArray[np.int64]:
        rows = {key: row for row, key in enumerate(sides.corpus.keys)}
        return np.array([rows.get(key, -1) for key in sides.anchors.keys], np.int64)

    same: Mask = resources.once("itself in corpus", places, sides.anchors, sides.corpus)[candidates.anchor] == candidates.corpus
    return same


def _same_words(candidates: Candidates, ours: Members, theirs: Members, resources: Resources) -> Mask:
    left, right = resources.normal_forms(ours.side), resources.normal_forms(theirs.side)
    return any_match(candidates, ours.rows, theirs.rows, lambda i, j: left[i] == right[j])
