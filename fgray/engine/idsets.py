"""Exact set operations on 10^8 item ids within a few hundred MiB: ids are spread over buckets, and one bucket is worked on at a time.

Ids are hashes, so their first byte spreads them evenly. Beyond a limit the buckets lie in a temporary file (in ``TMPDIR``).
"""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.engine.units import ID_BYTES

BUCKETS = 256
MEMORY = 128 << 20  # bytes that a table keeps in memory
SLICE = 1 << 20  # ids that are spread at a time

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<i8")])

_NONE = np.iinfo(np.int64).max

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class IdTable:
    """Ids with a number each, in the order in which they were added."""

    def __init__(self) -> None:
        self.count = 0
        self._file: Any = SpooledTemporaryFile(MEMORY)  # noqa: SIM115 -- it lives as long as the table
        self._pieces: list[tuple[int, Numbers]] = []  # place in the file, and where each bucket begins and ends in the piece

    def add(self, ids: pa.Array | pa.ChunkedArray, numbers: Numbers | None = None) -> None:
        """Append ids (binary[16], no nulls); without numbers they are counted on from the last one."""
        chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
        done = 0
        for chunk in chunks:
            for start in range(0, len(chunk), SLICE):
                part = chunk.slice(start, SLICE)
                given = np.arange(self.count, self.count + len(part)) if numbers is None else numbers[done : done + len(part)]
                self._spread(_words(part), given)
                done += len(part)

    def _spread(self, words: npt.NDArray[np.uint64], numbers: Numbers) -> None:
        bucket = (words[:, 0] % BUCKETS).astype(np.uint8)
        order = np.argsort(bucket, kind="stable")
        entries = np.empty(len(words), _ENTRY)
        entries["high"], entries["low"], entries["number"] = words[order, 0], words[order, 1], numbers[order]
        ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))
        self._pieces.append((self._file.seek(0, 2), np.concatenate([[0], ends]).astype(np.int64)))
        self._file.write(entries.tobytes())
        self.count += len(words)

    def bucket(self, which: int) -> npt.NDArray[Any]:
        """Return the entries (fields high, low, number) of a bucket, in the order in which they were added."""
        found = []
        for place, bounds in self._pieces:
            first, last = int(bounds[which]), int(bounds[which + 1])
            if last > first:
                self._file.seek(place + first * _ENTRY.itemsize)
                found.append(np.frombuffer(self._file.read((last - first) * _ENTRY.itemsize), _ENTRY))
        return np.concatenate(found) if found else np.empty(0, _ENTRY)


class Match(NamedTuple):
    """What a bucket's asked ids are, in no particular order.

    Attributes:
        numbers: of the asked ids.
        first: whether no equal id was asked before.
        found: the smallest number that an equal id has in the other table; -1 where there is none.
    """

    numbers: Numbers
    first: Flags
    found: Numbers


def match(asked: IdTable, stored: IdTable) -> Iterator[Match]:
    """Yield, bucket by bucket, which asked ids repeat others and which are stored."""
    for which in range(BUCKETS):
        wanted = asked.bucket(which)
        if not len(wanted):
            continue
        have = stored.bucket(which)
        # Stored entries stand first, and the sort is stable: so they lead the run of their id.
        both = np.concatenate([have, wanted])
        order = np.argsort(both["high"], kind="stable")
        high, low = both["high"][order], both["low"][order]
        same = high[1:] == high[:-1]
        if np.any(same & (low[1:] != low[:-1])):
            order = np.lexsort((both["low"], both["high"]))
            high, low = both["high"][order], both["low"][order]
            same = high[1:] == high[:-1]
        starts = np.concatenate([[True], ~(same & (low[1:] == low[:-1]))])
        is_wanted = order >= len(have)
        numbers = np.where(is_wanted, _NONE, both["number"][order])
        smallest = np.minimum.reduceat(numbers, np.flatnonzero(starts))
        found = np.where(smallest == _NONE, -1, smallest)[np.cumsum(starts) - 1]
        first = starts | np.concatenate([[True], ~is_wanted[:-1]])
        yield Match(both["number"][order[is_wanted]], first[is_wanted], found[is_wanted])


def mark(asked: IdTable, stored: IdTable) -> tuple[Flags, Flags]:
    """Return, for every asked id in order, whether it is the first of its kind, and whether it is besides not stored.

    The ids must have been added without numbers of their own.
    """
    distinct, missing = np.zeros(asked.count, bool), np.zeros(asked.count, bool)
    for numbers, first, found in match(asked, stored):
        distinct[numbers] = first
        missing[numbers] = first & (found < 0)
    return distinct, missing


def locate(asked: IdTable, stored: IdTable) -> Numbers:
    """Return, for every asked id in order, the smallest number of an equal id in the other table, or -1."""
    places = np.full(asked.count, -1, np.int64)
    for numbers, _, found in match(asked, stored):
        places[numbers] = found
    return places


class Places:
    """Where ids stand among distinct ones that were asked for: sorted once, searched for every part that is read."""

    def __init__(self, asked: pa.Array) -> None:
        words = _words(asked)
        key = _key(words)
        self._order = np.argsort(key)
        self._keys, self._words = key[self._order], words[self._order]
        starts = np.flatnonzero(np.concatenate([[True], self._keys[1:] != self._keys[:-1], [True]]))
        self._longest = int(np.diff(starts).max()) if len(key) else 0  # run of equal keys: 1, but for chance

    def of(self, ids: pa.Array) -> tuple[Numbers, Numbers]:
        """Return the rows of `ids` that were asked for, each id once, and their places among the asked ones."""
        words = _words(ids)
        key = _key(words)
        first = np.searchsorted(self._keys, key)
        place = np.full(len(words), -1, np.int64)
        for step in range(self._longest):
            here = np.minimum(first + step, len(self._keys) - 1)
            equal = (self._words[here] == words).all(axis=1)
            place[equal] = self._order[here[equal]]
        rows = np.flatnonzero(place >= 0)
        distinct, at = np.unique(place[rows], return_index=True)
        return rows[at], distinct


def _key(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return words[:, 0] * np.uint64(0x9E3779B97F4A7C15) + words[:, 1]


def _words(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Return a view [n, 2] of ids as two words each."""
    values = np.frombuffer(ids.buffers()[1], np.uint8) if len(ids) else np.empty(0, np.uint8)
    start = ids.offset * ID_BYTES
    words: npt.NDArray[np.uint64] = values[start : start + len(ids) * ID_BYTES].view("<u8").reshape(-1, 2)
    return words
