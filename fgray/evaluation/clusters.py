"""Outcomes by cluster, for more clusters than memory holds: they are spread over buckets, and one bucket is read at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.engine.rows import Rows

BUCKETS = 256
PIECE = 1 << 20  # rows spread at a time

_SCHEMA = pa.schema([("cluster", pa.string()), ("leaf", pa.int32()), ("hit", pa.float64())])
_PRIME, _MIX = np.uint64(1099511628211), np.uint64(0x9E3779B97F4A7C15)  # FNV's; 2^64 over the golden ratio, for the upper bits

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class ClusterRows:
    """One row per outcome: its cluster, a number that says what it counts for, the hit."""

    def __init__(self) -> None:
        self._rows = Rows(_SCHEMA, chunk=PIECE // BUCKETS)
        self._bounds: list[Ints] = []
        self._held: list[pa.Table] = []

    def add(self, clusters: pa.ChunkedArray, leaves: Ints, hits: Floats) -> None:
        """Append outcomes."""
        self._held.append(pa.table([clusters, leaves.astype(np.int32), hits], schema=_SCHEMA))
        if sum(table.num_rows for table in self._held) >= PIECE:
            self._spread()

    def _spread(self) -> None:
        if self._held:
            table = pa.concat_tables(self._held).combine_chunks()
            bucket = bucket_of(table["cluster"].combine_chunks())
            self._bounds.append(self._rows.num_rows + np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=BUCKETS))]))
            self._rows.append(table.take(pa.array(np.argsort(bucket, kind="stable"))))
            self._held = []

    def buckets(self, leaves: int) -> Iterator[tuple[Ints, Ints, Ints, Floats]]:
        """Yield each bucket's distinct (cluster, leaf, hit), sorted: codes of the clusters, leaves, how often, hits.

        Args:
            leaves: all leaves are smaller.
        """
        self._spread()
        for which in range(BUCKETS):
            parts = [self._rows.slice(int(one[which]), int(one[which + 1] - one[which])) for one in self._bounds]
            table = pa.concat_tables([_SCHEMA.empty_table(), *parts]).combine_chunks()
            if table.num_rows:
                clusters = table["cluster"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
                hits, hit = np.unique(table["hit"].to_numpy(), return_inverse=True)
                distinct, times = np.unique((clusters * leaves + table["leaf"].to_numpy()) * len(hits) + hit, return_counts=True)
                owner = distinct // len(hits)
                yield owner // leaves, owner % leaves, times, hits[distinct % len(hits)]


class Strata:
    """Subsets that share clusters are one stratum; see `join_single` for strata of a single cluster."""

    def __init__(self, subsets: Sequence[str]) -> None:
        names = sorted(set(subsets))
        self.subset = np.array([names.index(subset) for subset in subsets], np.int64)
        self.parent = np.arange(len(names))
        self.counted = np.zeros(len(names), np.int64)

    def add(self, clusters: Ints, leaves: Ints) -> None:
        """Take in a bucket's clusters."""
        subsets = self.subset[leaves]
        first = self._first(clusters, subsets)
        self.counted += np.bincount(first, minlength=len(self.counted))
        for one, two in np.unique(np.stack([first[clusters], subsets]), axis=1).T.tolist():
            self.parent[self._root(one)] = self._root(two)

    def join_single(self) -> None:
        """Join the strata of a single cluster, which show no variation, when all buckets have been taken in.

        They become one, with the smallest other stratum where there is only one of them (as `fgray.metrics.intervals.Resampler`, which
        names the source).
        """
        subsets: dict[int, list[int]] = {}
        for subset in range(len(self.parent)):
            subsets.setdefault(self._root(subset), []).append(subset)
        sizes = self.sizes
        roots = sorted((root for root in subsets if sizes[root]), key=lambda root: (sizes[root], subsets[root]))
        single = sum(sizes[root] == 1 for root in roots)
        for root in roots[: max(2, single)] if single else ():
            self.parent[root] = roots[0]

    def of(self, clusters: Ints, leaves: Ints) -> Ints:
        """Return the stratum of each cluster of a bucket."""
        roots = np.array([self._root(subset) for subset in range(len(self.parent))])
        found: Ints = roots[self._first(clusters, self.subset[leaves])]
        return found

    @property
    def sizes(self) -> dict[int, int]:
        """Number of clusters of each stratum."""
        found: Counter[int] = Counter()
        for subset, count in enumerate(self.counted.tolist()):
            found[self._root(subset)] += count
        return found

    def _first(self, clusters: Ints, subsets: Ints) -> Ints:
        first = np.full(int(clusters.max()) + 1, len(self.parent))
        np.minimum.at(first, clusters, subsets)
        return first

    def _root(self, subset: int) -> int:
        while self.parent[subset] != subset:
            subset = int(self.parent[subset])
        return subset


def bucket_of(names: pa.Array) -> Ints:
    """Return a bucket for each string; equal strings share one."""
    offsets = np.frombuffer(names.buffers()[1], np.int32)[names.offset : names.offset + len(names) + 1].astype(np.int64)
    data = np.frombuffer(names.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    starts = offsets[:-1] - offsets[0]
    mixed = lengths.astype(np.uint64)
    there = np.flatnonzero(lengths)
    for place in range(int(lengths.max(initial=0))):
        mixed[there] = (mixed[there] ^ data[starts[there] + place]) * _PRIME
        there = there[lengths[there] > place + 1]
    mixed *= _MIX
    buckets: Ints = (mixed >> np.uint64(56)).astype(np.int64)
    return buckets
