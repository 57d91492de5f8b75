"""Filters against near-duplicates: images that show the same picture, texts that say the same words.

The default distance of image hashes was chosen on Flickr8k's train images (`python -m tests.mining.measure_near_duplicates`; copies
of 500 images, 50,000 pairs of different images that are nearest neighbours of `lite0-minilm`), shares in %:

| hash distance | 8 | 10 | 12 | 14 | 16 |
| --- | --- | --- | --- | --- | --- |
| caught: JPEG quality 30-90, rescaled 0.3-2x, mirrored | 100 | 100 | 100 | 100 | 100 |
| caught: cropped to 70-95 % of each side | 84.8 | 96.0 | 98.6 | 99.0 | 99.6 |
| caught: cropped and mirrored | 83.2 | 94.0 | 98.2 | 99.6 | 99.8 |
| caught: cropped, rescaled and JPEG | 84.6 | 94.0 | 98.8 | 99.6 | 99.6 |
| lost: nearest neighbours | 0.01 | 0.06 | 0.29 | 1.50 | 7.02 |

A cosine of that model at which 92 % of the crops are caught (0.8) loses 55 % of the neighbours, so that embeddings are not compared
unless the configuration says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy import sparse

from fgray.errors import DataError
from fgray.mining.candidates import Candidates, Side, Sides
from fgray.mining.filters import Filter
from fgray.mining.image_hash import distances
from fgray.mining.matching import Members, Rows, any_match, images_of, texts_of
from fgray.mining.resources import Resources
from fgray.mining.texts import token_set

Mask = npt.NDArray[np.bool_]
Test = Callable[[Rows, Rows], Mask]
GATHER = 1 << 12  # pairs whose hashes or vectors are gathered at a time


class _NearDuplicates(Filter):
    """Drops a candidate when any of its members matches any of the anchor's in any way that is in force."""

    @model_validator(mode="after")
    def _something_in_force(self) -> Self:
        if all(getattr(self, option) is None for option in self.CURVES):
            raise ValueError(f"give {' or '.join(self.CURVES)}")
        return self

    def _members(self, side: Side, sides: Sides, resources: Resources) -> Members:
        raise NotImplementedError

    def _tests(self, ours: Side, theirs: Side, resources: Resources) -> list[Test]:
        raise NotImplementedError

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        ours, theirs = (self._members(side, sides, resources) for side in (sides.anchors, sides.corpus))
        found = np.zeros(len(candidates), bool)
        for test in self._tests(ours.side, theirs.side, resources):
            left = np.flatnonzero(~found)
            found[left] = any_match(candidates.take(left), ours.rows, theirs.rows, test)
        return ~found


class NearDuplicateImages(_NearDuplicates):
    """Drops images, and captions of images, that look like the anchor's image: copies, crops, mirrored and re-encoded ones.

    `hash_distance` compares perceptual hashes (see `fgray.mining.image_hash`), `cosine` the embeddings of the searched model; one that
    matches is enough. A text stands for the images that it describes. Byte-equal files have equal hashes. Among images that differ in
    a detail on purpose (composed scenes, video frames) the default distance drops most of the best negatives: the audit shows it, and
    0 to 4 suits them better.
    """

    CURVES: ClassVar = {"hash_distance": range(0, 25, 2), "cosine": np.arange(0.5, 1.0001, 0.02).round(2).tolist()}

    hash_distance: int | None = Field(
        12,
        description="drops at this many different bits of 64 or fewer (always an even number); null: hashes are not compared",
        ge=0,
        le=64,
    )
    cosine: float | None = Field(
        None, description="drops at this cosine of the image embeddings or higher; null: they are not compared", ge=-1, le=1
    )

    def check(self, sides: Sides) -> None:
        """Refuse pairs that do not say where their images lie."""
        if sum(len(keys) for _, keys in sides.images.places) != len(sides.images.keys):
            raise DataError("near_duplicate_images has no images to compare", fix="remove the filter, or bring the images of the pairs")

    def _members(self, side: Side, sides: Sides, resources: Resources) -> Members:
        return images_of(side, sides, resources)

    def _tests(self, ours: Side, theirs: Side, resources: Resources) -> list[Test]:
        tests: list[Test] = []
        if self.hash_distance is not None:
            limit, left, right = self.hash_distance, resources.hashes(ours), resources.hashes(theirs)
            tests.append(_costly(lambda i, j: (distances(left.bank[i], right.bank[j]) <= limit) & left.known[i] & right.known[j]))
        if self.cosine is not None:
            tests.append(_cosine_test(ours, theirs, resources, self.cosine))
        return tests


class NearDuplicateTexts(_NearDuplicates):
    """Drops texts, and images of texts, that say what the anchor's text says; by default only the same words in any order.

    `token_overlap` is the share of distinct words that two texts have in common (Jaccard) after normalisation; `cosine` compares the
    embeddings of the searched model, and one that matches is enough. An image stands for its captions. A cosine low enough to catch
    most paraphrases drops most good negatives, too; the audit's curve shows the price, and so it is off by default.
    """

    CURVES: ClassVar = {
        "token_overlap": np.arange(0.1, 1.0001, 0.1).round(2).tolist(),
        "cosine": np.arange(0.5, 1.0001, 0.02).round(2).tolist(),
    }

    token_overlap: float | None = Field(
        1.0, description="drops at this share of common words or higher; 1: equal sets of words; null: words are not compared", gt=0, le=1
    )
    cosine: float | None = Field(
        None, description="drops at this cosine of the text embeddings or higher; null: they are not compared", ge=-1, le=1
    )

    def _members(self, side: Side, sides: Sides, resources: Resources) -> Members:
        return texts_of(side, sides, resources)

    def _tests(self, ours: Side, theirs: Side, resources: Resources) -> list[Test]:
        tests: list[Test] = []
        if self.token_overlap == 1:
            left, right = resources.token_sets(ours), resources.token_sets(theirs)
            tests.append(lambda i, j: left[i] == right[j])
        elif self.token_overlap is not None:
            tests.append(_overlap_test(ours, theirs, resources, self.token_overlap))
        if self.cosine is not None:
            tests.append(_cosine_test(ours, theirs, resources, self.cosine))
        return tests


def _costly(test: Test) -> Test:
    """Ask each pair once: rows of one anchor have the same candidates, and texts of one image the same pictures."""

    def asked(i: Rows, j: Rows) -> Mask:
        width = int(j.max(initial=0)) + 1
        pairs, back = np.unique(i * width + j, return_inverse=True)
        parts = np.split(pairs, range(GATHER, len(pairs), GATHER))
        return np.concatenate([test(*np.divmod(part, width)) for part in parts])[back]

    return asked


def _cosine_test(ours: Side, theirs: Side, resources: Resources, limit: float) -> Test:
    left, right = resources.embeddings(ours), resources.embeddings(theirs)
    # fp32 sums of unit vectors are right to about 1e-7; without the slack a copy could miss a limit of 1.
    return _costly(lambda i, j: np.einsum("nd,nd->n", left[i], right[j]) >= limit - 1e-6)


def _overlap_test(ours: Side, theirs: Side, resources: Resources, limit: float) -> Test:
    left, right = _words(ours, resources), _words(theirs, resources)

    def test(i: Rows, j: Rows) -> Mask:
        one, other = left[i], right[j]
        width = max(one.shape[1], other.shape[1])  # words met later have later columns
        one.resize(len(i), width)
        other.resize(len(j), width)
        common = np.diff(one.multiply(other).tocsr().indptr)
        union = np.diff(one.indptr) + np.diff(other.indptr) - common
        overlap: Mask = common >= limit * union - 1e-9
        return overlap

    return _costly(test)


def _words(side: Side, resources: Resources) -> sparse.csr_matrix:
    """Return which words each text has, int32 [N, words known so far]."""

    def make() -> sparse.csr_matrix:
        sets = [sorted(resources.number(word) for word in token_set(text)) for text in side.keys]
        columns = np.array([word for row in sets for word in row], np.int64)
        shape = (len(sets), int(columns.max(initial=-1)) + 1)
        return sparse.csr_matrix((np.ones(len(columns), np.int32), columns, np.cumsum([0, *map(len, sets)])), shape=shape)

    return resources.once("words", make, side)
