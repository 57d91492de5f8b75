"""The screen of the exact search: which corpus rows may belong to the k best of a query, found in low precision.

Scores are computed with `torch.mm` in bf16 (CPUs that multiply it natively), fp16 (GPUs) or fp32, tile by tile. Of each
row the k-th best so far gives a floor, and what reaches it is collected. That is little: a tile is first reduced to the
maxima of small groups, and only groups whose maximum reaches the floor are looked into.

**The floor.** Let x, y be stored rows, X, Y their roundings to the screen's type, and a the screen's score. Then
|x.y - X.Y| <= |x - X| |y| + |X| |y - Y| (Cauchy-Schwarz; the norms of the residuals are measured), and a sum of D products in precision u
errs by at most D u / (1 - D u) |X| |Y| in any order (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
section 3.1). Call the sum of these e; the rounding of a itself to the screen's type adds v |a|. If T is the k-th largest a so far,
k rows have scores of at least T - v |T| - e, so a row of the k best has a >= T - 2 e - 2 v |T| up to second order in v,
and whatever lies below that may be dropped for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GROUP = 8  # scores that share a maximum
SLACK = 256  # candidates beyond 2 k that a query may hold, at least; k where that is more
RENEW = 1.5  # the k-th best moves with the logarithm of the rows seen, so it is renewed each time these have grown so much
NORM = 1.01  # of stored rows: within 1e-3 of 1, and within 2^-8 more by rounding to bf16
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
# Tensor cores and AVX-512 BF16 truncate within a block of products; four times fp32's rounding covers that.
ADDITION = {torch.bfloat16: 2.0**-22, torch.float16: 2.0**-22, torch.float32: 2.0**-24}
_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
TINY = 1e-7  # numbers below the normal range of the screen's type
BELOW = -2.0  # every score


class Shape(NamedTuple):
    """Rows of queries and of the corpus in a tile of scores: on a CPU 2 MiB in bf16, which caches hold until it is reduced."""

    queries: int
    corpus: int


SHAPES = {"cpu": Shape(256, 4096), "cuda": Shape(16_384, 65_536)}

Rows = slice | npt.NDArray[np.int64]
Hits = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]


@dataclass
class Corpus:
    """Corpus rows in memory, as stored, [N, D] on the device that searches them."""

    vectors: Tensor
    residuals: dict[tuple[int, int, torch.dtype], float] = field(default_factory=dict)

    def tile(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return rows in the screen's type and the largest norm of what the rounding took from one of them."""
        stored = self.vectors[start:stop]
        rounded = stored.to(dtype)
        key = (start, stop, dtype)
        if key not in self.residuals:
            self.residuals[key] = float(_residual(stored, rounded).max())
        return rounded, self.residuals[key]


def screen_types(device: torch.device) -> list[torch.dtype]:
    """Return the types of the screen's tiers on a device, the fastest first."""
    if device.type == "cuda":
        return [torch.float16, torch.float32]
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return [torch.bfloat16, torch.float32] if native else [torch.float32]


def screen_bytes(dim: int, k: int) -> int:
    """Return the memory of a screen on a CPU that does not grow with its queries."""
    queries, tile = SHAPES["cpu"]
    return queries * (8 * tile + 8 * (tile + Screen.capacity_for(k))) + 16 * tile * dim


class Screen:
    """The running candidates of queries in one tier.

    Attributes:
        overflowed: bool [Q]: queries whose candidates did not fit and that must be searched in another way.
    """

    def __init__(self, queries: Tensor, corpus: Corpus, k: int, dtype: torch.dtype) -> None:
        self.corpus, self.k, self.dtype = corpus, k, dtype
        self.rounded = queries.to(dtype)
        self.shape = SHAPES[queries.device.type]
        self.capacity = self.capacity_for(k)
        self.query_residual = _residual(queries, self.rounded).cpu().numpy()
        self.corpus_residual = 0.0
        gamma = queries.shape[1] * ADDITION[dtype]
        self.gamma = 1.05 * gamma / (1 - gamma)
        rows = len(queries)
        # The first `count` of a row are its candidates: their scores, and their places in the corpus.
        self.values = np.empty((rows, self.capacity), np.float32)
        self.places = np.empty((rows, self.capacity), np.int32)
        self.count = np.zeros(rows, np.int64)
        self.best = np.full(rows, BELOW, np.float32)  # the k-th largest score so far
        self.floor = np.full(rows, BELOW, np.float32)
        self.overflowed = np.zeros(rows, bool)
        self.buffer = torch.empty(self.shape.corpus * min(self.shape.queries, rows), dtype=dtype, device=queries.device)

    @staticmethod
    def capacity_for(k: int) -> int:
        """Return how many candidates a query may hold."""
        return 2 * k + max(k, SLACK)

    def run(self, spans: Iterable[tuple[int, int]]) -> None:
        """Look at every row of the corpus; `spans` are its consecutive (start, stop)."""
        renewed = 0
        for start, stop in _tiles(spans, self.shape.corpus):
            tile, residual = self.corpus.tile(start, stop, self.dtype)
            self.corpus_residual = max(self.corpus_residual, residual)
            renew = start >= RENEW * renewed
            for first in range(0, len(self.count), self.shape.queries):
                rows = slice(first, min(first + self.shape.queries, len(self.count)))
                self._look(rows, tile, start, renew)
            renewed = start if renew else renewed

    def candidates(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
        """Yield (queries [n], corpus rows [n, m]) of those that did not overflow; -1 fills up shorter rows."""
        for first in range(0, len(self.count), self.shape.queries):
            rows = slice(first, min(first + self.shape.queries, len(self.count)))
            self._compact(rows)
            done = first + np.flatnonzero(~self.overflowed[rows])
            if len(done):
                width = int(self.count[done].max())
                yield done, np.where(np.arange(width) < self.count[done, None], self.places[done, :width], -1)

    def _look(self, rows: slice, tile: Tensor, start: int, renew: bool) -> None:
        """Take over what reaches the floor in a tile that begins at corpus row `start`."""
        self._set_floor(rows)  # the tile may have moved the largest residual
        scores = _Scores(self.rounded[rows], tile, self.buffer, as_bits=bool((self.floor[rows] > 0).all()))
        if renew:
            self._renew(rows, None if start else scores.maxima(2 * self.k))
        row, place, value = scores.hits(self.floor[rows])
        new = np.bincount(row, minlength=len(self.count[rows]))
        for remedy in (self._compact, self._raise, self._give_up):  # where candidates do not fit, from the cheapest to the last
            full = np.flatnonzero(self.count[rows] + new > self.capacity)
            if not len(full):
                break
            remedy(rows, full, scores)
            keep = value >= self.floor[rows][row]
            row, place, value = row[keep], place[keep], value[keep]
            new = np.bincount(row, minlength=len(self.count[rows]))
        self._insert(rows, new, row, place + start, value)

    def _insert(self, rows: slice, new: npt.NDArray[Any], row: npt.NDArray[Any], place: npt.NDArray[Any], value: npt.NDArray[Any]) -> None:
        """Append candidates that are sorted by row; `new` counts them per row."""
        offset = self.count[rows] - (np.cumsum(new) - new) + np.arange(len(new)) * self.capacity
        at = offset[row] + np.arange(len(row))
        self.values[rows].reshape(-1)[at] = value
        self.places[rows].reshape(-1)[at] = place
        self.count[rows] += new

    def _renew(self, rows: Rows, more: npt.NDArray[np.float32] | None = None) -> None:
        """Take the k-th best, and with it the floor, from the candidates and from `more` scores [n, m] of other corpus rows."""
        count = self.count[rows]
        width = int(count.max())
        values = np.where(np.arange(width) < count[:, None], self.values[rows, :width], -np.inf)
        both = values if more is None else np.concatenate([values, more], axis=1)
        if both.shape[1] >= self.k:
            # Vectorised sorting is faster than NumPy's and torch's ways to the k-th alone.
            self.best[rows] = np.maximum(self.best[rows], np.sort(both, axis=1)[:, -self.k])
        self._set_floor(rows)

    def _set_floor(self, rows: Rows) -> None:
        error = NORM * (self.query_residual[rows] + self.corpus_residual + self.gamma * NORM)
        rounding, best = ROUNDING[self.dtype], self.best[rows]
        floor = best - 2 * error * (1 + 2 * rounding) - 3.2 * rounding * np.abs(best) - TINY  # 1.2 for the rounding of the floor itself
        rounded = torch.from_numpy(floor).to(self.dtype).float().numpy()
        self.floor[rows] = np.where(self.overflowed[rows], np.inf, rounded)

    def _compact(self, rows: slice, *_: object) -> None:
        """Drop candidates that fell below the floor."""
        self._renew(rows)
        width = int(self.count[rows].max())
        valid = np.arange(width) < self.count[rows, None]
        keep = valid & (self.values[rows, :width] >= self.floor[rows, None])
        row = np.nonzero(keep)[0]
        value, place = self.values[rows, :width][keep], self.places[rows, :width][keep]
        self.count[rows] = 0
        self._insert(rows, np.bincount(row, minlength=len(keep)), row, place, value)

    def _raise(self, rows: slice, full: npt.NDArray[Any], scores: _Scores) -> None:
        """Take the k-th best of full rows from every score of the tile."""
        self._renew(rows.start + full, scores.of(full))
        self._compact(rows)

    def _give_up(self, rows: slice, full: npt.NDArray[Any], scores: _Scores) -> None:
        self.overflowed[rows.start + full] = True
        self.count[rows.start + full] = 0
        self._set_floor(rows)


class _Scores:
    """The scores of a tile, [n, m]; columns beyond the corpus rows are -inf.

    A group is a column of a row seen as [GROUP, m / GROUP]: a maximum over the middle axis reads memory in order. With
    `as_bits` floats are compared as the integers that their bits are, several times faster: above zero the order is the
    same, and what is below has a sign bit.

    Attributes:
        peaks: [n, m / GROUP], the maxima of groups; with `as_bits` a group without a positive score shows just one of its scores.
    """

    def __init__(self, queries: Tensor, tile: Tensor, buffer: Tensor, as_bits: bool) -> None:
        size = len(tile)
        rows, columns = len(queries), -(-size // GROUP) * GROUP
        if columns > size:
            tile = torch.cat([tile, tile.new_zeros((columns - size, tile.shape[1]))])
        self.scores = buffer[: rows * columns].view(rows, columns)
        torch.mm(queries, tile.T, out=self.scores)
        self.scores[:, size:] = -torch.inf
        self.compared = _INTEGERS[buffer.dtype] if as_bits else buffer.dtype
        self.peaks = self._maxima(self.scores.view(self.compared), GROUP).view(buffer.dtype)

    def maxima(self, least: int) -> npt.NDArray[np.float32]:
        """Return scores [n, at least `least` where there are so many] of distinct corpus rows, with luck the largest."""
        group = GROUP
        while group > 1 and self.scores.shape[1] < least * group:
            group //= 2
        return self._maxima(self.scores, group).float().cpu().numpy()

    def of(self, queries: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return every score of some queries."""
        return self.scores[torch.from_numpy(queries)].float().cpu().numpy()

    def hits(self, floor: npt.NDArray[np.float32]) -> Hits:
        """Return (row, column, score) of scores that reach their row's floor [n], sorted by row."""
        least = torch.from_numpy(floor).to(self.peaks)
        return self.hits_by_torch(least) if self.scores.is_cuda else self.hits_by_numpy(least)

    def hits_by_torch(self, least: Tensor) -> Hits:
        """Find hits on a GPU."""
        row, group = (self.peaks >= least[:, None]).nonzero(as_tuple=True)
        members = self.scores.view(len(self.scores), GROUP, -1)[row, :, group]
        hit, member = (members >= least[row, None]).nonzero(as_tuple=True)
        column = member * self.peaks.shape[1] + group[hit]
        return row[hit].cpu().numpy(), column.cpu().numpy(), members[hit, member].float().cpu().numpy()

    def hits_by_numpy(self, least: Tensor) -> Hits:
        """Find hits on a CPU: NumPy is faster where few are found among many, but it knows no bf16."""

        def plain(values: Tensor) -> npt.NDArray[Any]:
            return (values.float() if self.compared == torch.bfloat16 else values.view(self.compared)).numpy()

        floor, groups = plain(least), self.peaks.shape[1]
        flat = np.flatnonzero(plain(self.peaks) >= floor[:, None])
        row, group = flat // groups, flat % groups
        first = row * self.scores.shape[1] + group
        members = plain(self.scores).reshape(-1).take(first + np.arange(0, self.scores.shape[1], groups)[:, None])
        flat = np.flatnonzero((members >= floor[row]).T)
        hit, member = flat // GROUP, flat % GROUP
        value = torch.from_numpy(members[member, hit])
        if self.compared != torch.bfloat16:
            value = value.view(self.scores.dtype).float()
        return row[hit], member * groups + group[hit], value.numpy()

    @staticmethod
    def _maxima(scores: Tensor, group: int) -> Tensor:
        return scores.view(len(scores), group, -1).amax(1)


def _residual(stored: Tensor, rounded: Tensor) -> Tensor:
    """Return the norm of what the rounding took from each row, rounded up."""
    if stored.dtype == rounded.dtype or rounded.dtype == torch.float32:
        return torch.zeros(len(stored), device=stored.device)
    norm: Tensor = torch.linalg.vector_norm(stored.float() - rounded.float(), dim=1)
    return norm * 1.001


def _tiles(spans: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    for start, stop in spans:
        for at in range(start, stop, size):
            yield at, min(stop, at + size)
