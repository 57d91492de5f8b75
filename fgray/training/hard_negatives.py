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
        keys = distinct((samples * kinds + types) * width + items)
        rest, item = np.divmod(keys, width)
        sample, kind = np.divmod(rest, kinds)
        offsets = np.zeros(size + 1, np.int64)
        np.cumsum(np.bincount(sample, minlength=size), out=offsets[1:])
        return cls(offsets, item.astype(np.int32), kind.astype(np.int16))

    def of(self, sample: int) -> npt.NDArray[np.int32]:
        """Return the numbers of one sample's negatives."""
        return self.items[self.offsets[sample] : self.offsets[sample + 1]]

    def choose(self, samples: Numbers, columns: Sequence[int | None], draw: Sequence[npt.ArrayLike]) -> Numbers:
        """Return a negative for each sample and column, -1 where there is none left: int64 [n, columns].

        A sample's negatives are put in a random order; each column takes the first one of its type that no column before it took.

        Args:
            samples: whose negatives, [n].
            columns: number of the type that a column takes; None: any.
            draw: integers, or arrays of them [n], that decide the random order; nothing else does.
        """
        counts = self.offsets[samples + 1] - self.offsets[samples]
        row, position = expand(self.offsets[samples], counts)
        parts = [part if np.ndim(part) == 0 else np.asarray(part)[row] for part in draw]
        order = position[np.lexsort((mix(*parts, position - self.offsets[samples][row]), row))]
        items, types = self.items[order].tolist(), self.types[order].tolist()
        chosen = np.full((len(samples), len(columns)), -1, np.int64)
        start = 0
        for number, count in enumerate(counts.tolist()):
            left = list(zip(items[start : start + count], types[start : start + count], strict=True))
            start += count
            taken: set[int] = set()  # by item: one text may stand under two types
            for column, wanted in enumerate(columns):
                item = next((item for item, kind in left if item not in taken and (wanted is None or kind == wanted)), -1)
                chosen[number, column] = item
                taken.add(item)
        return chosen


def distinct(numbers: Numbers) -> Numbers:
    """Return the different numbers, sorted; by sorting, which is many times faster here than the hash table of np.unique."""
    ordered = np.sort(numbers)
    different: Numbers = ordered[np.diff(ordered, prepend=ordered[:1] - 1) != 0]
    return different


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
