"""Which samples a step sees: a pure function of seed, epoch and step, the same for any number of workers.

Every source is read in passes of its own. A pass sees each sample exactly once, in an order that seed, source and number of the
pass decide: shards are permuted and joined to groups, then the rows of a group are permuted, so that what is read together lies
together. The samples of all passes stand in one endless line, and a step takes the next of each source, always as many. So the
last step of a pass ends with the first samples of the next one, and nothing is left out.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgray.errors import ConfigError, DataError

Numbers = npt.NDArray[np.int64]
GROUP_ROWS = 1 << 16  # rows that are mixed with each other, at least
_KEPT = 2  # passes of a source whose order is held in memory: a step may see the end of one and the start of the next
_KEY_BITS = 40  # of a row's place in its group; equal keys keep the rows' own order


def mix(*parts: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return 64 well-mixed bits for every row of broadcast integers, the same on every machine and version.

    Each part goes through the finaliser of SplitMix64 (Steele, Lea, Flood 2014, with Stafford's constants of mix 13).
    """
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = (state ^ np.asarray(part, np.int64).view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def largest_remainder(shares: Sequence[float], count: int) -> list[int]:
    """Return how many of `count` places each share gets; they add up, and ties go to the first."""
    total = math.fsum(shares)
    exact = [share / total * count for share in shares]
    places = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (places[i] - exact[i], i))
    for i in by_remainder[: count - sum(places)]:
        places[i] += 1
    return places


class Order:
    """The samples of every step of the global batch.

    Args:
        sizes: samples of each source.
        shares: share of each source in every batch, relative to the others.
        batch_size: samples of a step, over all workers.
        seed: seed of the order.
        groups: per source the number of the shard that each sample's image lies in, int [size]; None: there are no shards.

    Raises:
        ConfigError: a source's share of the batch is less than one sample.
        DataError: a source is empty.

    Attributes:
        counts: samples of each source in every step.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        shares: Sequence[float],
        batch_size: int,
        seed: int,
        groups: Sequence[npt.NDArray[np.integer] | None] | None = None,
    ) -> None:
        self.sizes, self.batch_size, self.seed = list(sizes), batch_size, seed
        self.counts = largest_remainder(shares, batch_size)
        self._shards = [None if shards is None else _Shards.of(shards) for shards in groups or [None] * len(self.sizes)]
        for number, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            if size == 0:
                raise DataError(f"source {number + 1} has no samples", fix="check its pairs")
            if count == 0:
                what = f"the share of source {number + 1} is less than one sample of a batch of {batch_size}"
                raise ConfigError(what, where="sources", fix="raise its share or batch_size")
        # Sources alternate, so that every worker's slice and every micro-batch has its part of each.
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in self.counts])
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        self._source: Numbers = owner[np.argsort(places, kind="stable")]
        self._rows = [np.flatnonzero(self._source == number) for number in range(len(self.counts))]
        self._passes: OrderedDict[tuple[int, int], npt.NDArray[np.int32] | Numbers] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def steps_per_epoch(self) -> float:
        """Return how many steps one pass over the first source takes; a fraction, since passes do not end with a step."""
        return self.sizes[0] / self.counts[0]

    def steps(self, epochs: float) -> int:
        """Return the least number of steps in which the first source is passed over `epochs` times."""
        return math.ceil(round(epochs * self.sizes[0], 6) / self.counts[0])

    def samples(self, step: int) -> tuple[Numbers, Numbers, Numbers]:
        """Return (source, sample, epoch) of the global batch, int64 [batch_size] each.

        Args:
            step: number of the step, from 0. Worker r of W takes the rows from r·batch_size/W to (r + 1)·batch_size/W.
        """
        sample, epoch = np.empty(self.batch_size, np.int64), np.empty(self.batch_size, np.int64)
        for source, (size, count, rows) in enumerate(zip(self.sizes, self.counts, self._rows, strict=True)):
            passes, within = np.divmod(step * count + np.arange(count), size)
            numbers = np.empty(count, np.int64)
            for number in np.unique(passes).tolist():
                here = passes == number
                numbers[here] = self._pass(source, number)[within[here]]
            sample[rows], epoch[rows] = numbers, passes
        return self._source.copy(), sample, epoch

    def _pass(self, source: int, epoch: int) -> npt.NDArray[np.int32] | Numbers:
        with self._lock:
            if (source, epoch) not in self._passes:
                held = [key for key in self._passes if key[0] == source]
                for key in held[: len(held) - _KEPT + 1]:
                    del self._passes[key]
                self._passes[source, epoch] = _permutation(self.sizes[source], self._shards[source], self.seed, source, epoch)
            self._passes.move_to_end((source, epoch))
            return self._passes[source, epoch]


@dataclass(frozen=True)
class _Shards:
    """The shards of a source: of which one each row is (int32 [size]), and how many rows each has."""

    of_row: npt.NDArray[np.int32]
    rows: Numbers

    @classmethod
    def of(cls, numbers: npt.NDArray[np.integer]) -> _Shards:
        _, of_row, rows = np.unique(numbers, return_inverse=True, return_counts=True)
        return cls(of_row.astype(np.int32), rows)


def _permutation(size: int, shards: _Shards | None, seed: int, source: int, epoch: int) -> npt.NDArray[np.int32] | Numbers:
    """Return the order of a pass: every number below `size` once."""
    keys = mix(seed, source, epoch, np.arange(size)) >> np.uint64(64 - _KEY_BITS)
    if shards is not None:
        keys |= _group(shards.rows, seed, source, epoch)[shards.of_row] << np.uint64(_KEY_BITS)
    order = np.argsort(keys, kind="stable")
    return order.astype(np.int32) if size < 1 << 31 else order


def _group(rows: Numbers, seed: int, source: int, epoch: int) -> npt.NDArray[np.uint64]:
    """Return the number of each shard's group: shards in permuted order, joined until a group has GROUP_ROWS rows."""
    order = np.argsort(mix(seed, source, epoch, -1 - np.arange(len(rows))), kind="stable")  # negative: rows have the numbers from 0 on
    before = np.cumsum(rows[order]) - rows[order]
    group = np.empty(len(rows), np.uint64)
    group[order] = before // GROUP_ROWS
    return group
