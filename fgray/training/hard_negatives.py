"""The hard negatives of every sample, as arrays, and which of them a step uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgray.data.negatives import DIRECTIONS
from fgray.training.order import mix

Numbers = npt.NDArray[np.int64]
NONE: Numbers = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Ragged:
    """Negatives of N samples.

    Attributes:
        offsets: int64 [N + 1]; sample i has the entries from offsets[i] to offsets[i + 1].
        items: int32 [M], number of the text or image.
        types: int16 [M], number of its type.
    """

    offsets: Numbers
    items: npt.NDArray[np.int32]
    types: npt.NDArray[np.int16]

    @classmethod
    def build(cls, size: int, samples: Numbers, items: Numbers, types: Numbers) -> Ragged:
        """Sort (sample, type, item) triples by sample and drop repeated ones."""
        width, kinds = int(items.max(initial=0)) + 1, int(types.max(initial=0)) + 1
        keys = np.unique((samples * kinds + types) * width + items)
        rest, item = np.divmod(keys, width)
        sample, kind = np.divmod(rest, kinds)
        offsets = np.zeros(size + 1, np.int64)
        np.cumsum(np.bincount(sample, minlength=size), out=offsets[1:])
        return cls(offsets, item.astype(np.int32), kind.astype(np.int16))

    def of(self, sample: int) -> npt.NDArray[np.int32]:
        """Return the numbers of one sample's negatives."""
        return self.items[self.offsets[sample] : self.offsets[sample + 1]]

    def choose(self, sample: int, columns: Sequence[int | None], draw: Sequence[int]) -> list[int]:
        """Return one negative for each column, -1 where there is none left.

        The sample's negatives are put in a random order; each column takes the first one of its type that no column before it took.

        Args:
            sample: whose negatives.
            columns: number of the type that a column takes; None: any.
            draw: integers that decide the random order, and nothing else does.
        """
        start, stop = self.offsets[sample], self.offsets[sample + 1]
        order = np.argsort(mix(*draw, np.arange(stop - start)), kind="stable")
        left = list(zip(self.items[start:stop][order].tolist(), self.types[start:stop][order].tolist(), strict=True))
        chosen = []
        for wanted in columns:
            item = next((item for item, kind in left if wanted is None or kind == wanted), -1)
            chosen.append(item)
            left = [(other, kind) for other, kind in left if other != item]  # one text may stand under two types
        return chosen


def expand(starts: Numbers, counts: Numbers) -> tuple[Numbers, Numbers]:
    """Return (row, position) of every element of the ranges [start, start + count): int64 [counts.sum()] each."""
    rows = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, starts[rows] + within


def numbers_in(values: pa.ChunkedArray | pa.Array, known: pa.ChunkedArray | pa.Array) -> Numbers:
    """Return the position of each value in `known`, -1 where it (or the value) is missing."""
    found: Numbers = pc.fill_null(pc.index_in(values, value_set=known), -1).to_numpy().astype(np.int64)
    return found


def rows_of_samples(table: pa.Table, image_of: Numbers, text_of: Numbers, images: pa.Array, texts: pa.Array) -> tuple[Numbers, Numbers]:
    """Return (sample, row): which rows of a negatives file are about which pairs.

    A row is about a pair if its anchor is the pair's image or caption and its positive, where it names one of the other kind, is the rest
    of the pair.

    Args:
        table: rows of ``NEGATIVE_SCHEMA``.
        image_of: number of each sample's image in `images`, [N].
        text_of: number of its caption in `texts`, [N].
        images: distinct image keys.
        texts: distinct captions.
    """
    found_samples, found_rows = [NONE], [NONE]
    for direction in pc.unique(table["direction"]).to_pylist():
        here = np.flatnonzero(pc.equal(table["direction"], direction).to_numpy(zero_copy_only=False))
        rows = table.select(["anchor", "positive"]).take(here)
        anchor_kind, negative_kind = DIRECTIONS[direction]
        sides = {"image": (image_of, images), "text": (text_of, texts)}
        of_sample, known = sides.pop(anchor_kind)
        anchor = numbers_in(rows["anchor"], known)
        by_anchor = np.argsort(of_sample, kind="stable")
        ordered = of_sample[by_anchor]
        first, last = (np.searchsorted(ordered, anchor, side) for side in ("left", "right"))
        row, position = expand(first, last - first)
        sample = by_anchor[position]
        if negative_kind != anchor_kind:
            ((of_other, others),) = sides.values()
            named = rows["positive"].is_valid().to_numpy()
            same = numbers_in(rows["positive"], others)[row] == of_other[sample]
            row, sample = (part[same | ~named[row]] for part in (row, sample))
        found_samples.append(sample)
        found_rows.append(here[row])
    return np.concatenate(found_samples), np.concatenate(found_rows)
