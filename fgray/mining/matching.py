"""Which candidates share something with their anchor: any of its images, captions or labels with any of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fgray.mining.candidates import Candidates, Side, Sides
from fgray.mining.resources import Resources

Rows = npt.NDArray[np.int64]
BLOCK = 1 << 18  # pairs compared at a time


class Members(NamedTuple):
    """What the rows of a side stand for.

    Attributes:
        rows: bool [N, len(side)]: row -> members.
        side: the members.
    """

    rows: sparse.csr_matrix
    side: Side


def images_of(side: Side, sides: Sides, resources: Resources) -> Members:
    """Return the images of each row: an image itself (its links may be hidden), or those that a text describes."""
    return _itself(side, resources) if side.kind == "image" else Members(side.images, sides.images)


def texts_of(side: Side, sides: Sides, resources: Resources) -> Members:
    """Return the texts of each row: a text itself, or the captions of an image."""
    return _itself(side, resources) if side.kind == "text" else captions_of(side, sides, resources)


def captions_of(side: Side, sides: Sides, resources: Resources) -> Members:
    """Return all captions of the images that each row is or describes."""
    rows = resources.once("captions", lambda: sparse.csr_matrix(side.images @ sides.texts.images.T), side, sides.texts)
    return Members(rows, sides.texts)


def _itself(side: Side, resources: Resources) -> Members:
    return Members(resources.once("itself", lambda: sparse.identity(len(side.keys), bool, "csr"), side), side)


def any_match(
    candidates: Candidates, ours: sparse.csr_matrix, theirs: sparse.csr_matrix, test: Callable[[Rows, Rows], npt.NDArray[np.bool_]]
) -> npt.NDArray[np.bool_]:
    """Return for which candidates some member of the anchor matches some member of the candidate, bool [m].

    Args:
        candidates: the pairs.
        ours: members of each row of the anchors' side, [N, members].
        theirs: members of each row of the corpus.
        test: columns of `ours` and of `theirs`, [n] each -> bool [n].
    """
    for links in (ours, theirs):
        links.eliminate_zeros()  # a link that was unset, not removed, would count as one
    matched = np.zeros(len(candidates), bool)
    for pair, left, right in _member_pairs(candidates, ours, theirs):
        matched[pair[test(left, right)]] = True
    return matched


def _member_pairs(candidates: Candidates, ours: sparse.csr_matrix, theirs: sparse.csr_matrix) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Yield (candidate, member of its anchor, member of it) for every pair of members, about `BLOCK` of them at a time."""
    left_count, right_count = np.diff(ours.indptr)[candidates.anchor], np.diff(theirs.indptr)[candidates.corpus]
    count = left_count.astype(np.int64) * right_count
    ends = np.cumsum(count)
    start = 0
    while start < len(candidates):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + BLOCK, "right")))
        part = slice(start, stop)
        pair = np.repeat(np.arange(start, stop), count[part])
        within = np.arange(len(pair)) - np.repeat(ends[part] - count[part] - done, count[part])
        i, j = np.divmod(within, right_count[pair])
        left = ours.indices[ours.indptr[candidates.anchor[pair]] + i]
        right = theirs.indices[theirs.indptr[candidates.corpus[pair]] + j]
        yield pair, left.astype(np.int64), right.astype(np.int64)
        start = stop
