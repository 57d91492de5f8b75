"""Exact top-k of dot products: a fast screen in low precision with a proven error bound, then exact float64 scores.

The screen computes every score with `torch.mm` in bf16 (CPUs that multiply it natively), fp16 (GPUs) or fp32, keeps a running k-th
best per query, and collects what may still belong to the k best: few, because a tile of scores is first reduced to the
maxima of small groups, and only groups above the row's floor are looked into. What was collected is scored again in
float64, which is exact for vectors of `fgray.mining.vectors`, and ordered by (score descending, corpus row ascending). A row
whose candidates near the k-th place do not fit its buffer (thousands of duplicates) goes to the next tier: fp32, and last a
float64 product of the whole row. So the result depends on neither tier, tile, threads nor device.

**The bound.** Let x, y be stored rows, X, Y their roundings to the screen's type, and a the screen's score. Then
|x.y - X.Y| <= |x - X| |y| + |X| |y - Y| (Cauchy-Schwarz; the residual norms are measured), and a sum of D products in precision u errs by
at most D u / (1 - D u) |X| |Y| in any order (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1).
Call the sum of these e; the rounding of a itself to the screen's type adds v |a|. If T is the k-th largest a so far, k rows
have scores >= T - v |T| - e, so a row of the k best has a >= T - 2 e - 2 v |T| up to second order, and whatever lies below that
floor is dropped for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GROUP = 16  # scores that share a maximum
TILE, QUERIES = 4096, 512  # corpus rows and queries of a tile of scores: 4 MiB in bf16, which caches hold
SLACK = 256  # candidates beyond k that a row may hold, at least; k where that is more
EXACT_NUMBERS = 1 << 19  # float64 numbers at once; a GPU wants more
EXACT_TILE = 1024
NORM = 1.01  # of stored rows: within 1e-3 of 1, and within 2^-8 more by rounding to bf16
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
# Tensor cores and AVX-512 BF16 truncate within a block of products; four times fp32's rounding covers that.
ADDITION = {torch.bfloat16: 2.0**-22, torch.float16: 2.0**-22, torch.float32: 2.0**-24}
TINY = 1e-7  # numbers below the normal range of the screen's type

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


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


def top_k(queries: Tensor, corpus: Corpus, k: int, ready: Iterable[tuple[int, int]] | None = None) -> Found:
    """Return the k corpus rows with the largest dot products per query.

    Args:
        queries: stored rows [Q, D] on the corpus' device.
        corpus: what is searched.
        k: how many.
        ready: consecutive (start, stop) of corpus rows as they become readable; by default all are.

    Returns:
        Rows int64 [Q, k] and exact scores float64 [Q, k], by (score descending, row ascending); -1 and -inf where the corpus has fewer
        than k rows.
    """
    total = len(corpus.vectors)
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf)
    wanted = min(k, total)
    left = torch.arange(len(queries), device=queries.device)
    spans = ready if ready is not None else [(0, total)]
    for dtype in screen_types(queries.device):
        screen = _Screen(queries[left], corpus, wanted, dtype)
        screen.run(_tiles(spans, TILE))
        for done, found, exact in screen.results():
            at = left[done].cpu().numpy()
            rows[at, :wanted], scores[at, :wanted] = found.cpu().numpy(), exact.cpu().numpy()
        left = left[screen.overflowed]
        spans = [(0, total)]
        if not len(left):
            return rows, scores
    for part in torch.split(left, max(1, EXACT_NUMBERS // (EXACT_TILE + k))):
        found, exact = _scan_exactly(queries[part], corpus.vectors, wanted)
        rows[part.cpu().numpy(), :wanted], scores[part.cpu().numpy(), :wanted] = found.cpu().numpy(), exact.cpu().numpy()
    return rows, scores


def row_bytes(dim: int, k: int) -> int:
    """Return the memory that `top_k` takes per query: its candidates, its result, its stored and rounded vector."""
    return 8 * _capacity(k) + 32 * k + 16 * dim


def tile_bytes(dim: int, k: int) -> int:
    """Return the memory that `top_k` takes besides: a tile of scores and its like, rows in float64."""
    return QUERIES * (8 * TILE + 12 * (TILE + _capacity(k))) + 16 * TILE * dim + 80 * EXACT_NUMBERS


def _capacity(k: int) -> int:
    return 2 * k + max(k, SLACK)


def screen_types(device: torch.device) -> list[torch.dtype]:
    """Return the types of the screen's tiers on a device, the fastest first."""
    if device.type == "cuda":
        return [torch.float16, torch.float32]
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return [torch.bfloat16, torch.float32] if native else [torch.float32]


class _Screen:
    """The running candidates of a block of queries in one tier.

    A candidate is kept while its score is at least the row's floor. ``values`` and ``places`` hold ``count`` candidates per row.
    """

    def __init__(self, queries: Tensor, corpus: Corpus, k: int, dtype: torch.dtype) -> None:
        self.queries, self.corpus, self.k, self.dtype = queries, corpus, k, dtype
        self.rounded = queries.to(dtype)
        rows, device = len(queries), queries.device
        self.query_residual = _residual(queries, self.rounded)
        self.corpus_residual = 0.0
        gamma = queries.shape[1] * ADDITION[dtype]
        self.gamma = 1.05 * gamma / (1 - gamma)
        self.capacity = _capacity(k)
        self.values = torch.full((rows, self.capacity), -torch.inf, device=device)
        self.places = torch.zeros((rows, self.capacity), dtype=torch.int32, device=device)
        self.count = torch.zeros(rows, dtype=torch.int64, device=device)
        self.best = torch.full((rows,), -2.0, device=device)  # the k-th largest score so far; below every score while there are fewer
        self.overflowed = torch.zeros(rows, dtype=torch.bool, device=device)
        self.buffer = torch.empty(TILE * min(QUERIES, rows), dtype=dtype, device=device)

    def run(self, tiles: Iterable[tuple[int, int]]) -> None:
        """Look at every tile of the corpus."""
        updated = 0
        for start, stop in tiles:
            tile, residual = self.corpus.tile(start, stop, self.dtype)
            self.corpus_residual = max(self.corpus_residual, residual)
            renew = start >= 1.25 * updated  # the k-th best moves with the logarithm of the rows seen
            for first in range(0, len(self.queries), QUERIES):
                rows = slice(first, min(first + QUERIES, len(self.queries)))
                if renew:
                    self._renew(rows)
                self._look(rows, tile, start)
            updated = start if renew else updated

    def results(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (rows of the block, corpus rows [n, k], exact scores [n, k]) of the rows that did not overflow."""
        for first in range(0, len(self.queries), QUERIES):
            self._shrink(slice(first, min(first + QUERIES, len(self.queries))))
        done = torch.nonzero(~self.overflowed).squeeze(1)
        if not len(done):
            return
        width, dim = int(self.count[done].max()), self.queries.shape[1]
        numbers = EXACT_NUMBERS << (7 if done.is_cuda else 0)
        for rows in torch.split(done, max(1, numbers // (width * dim))):
            places = self.places[rows, :width].long()
            # Through fp32, which holds every stored type and is converted much faster.
            vectors = self.corpus.vectors.index_select(0, places.view(-1)).float().double().view(len(rows), width, dim)
            scores = (vectors * self.queries[rows].double()[:, None]).sum(2)
            scores.masked_fill_(torch.arange(width, device=places.device) >= self.count[rows, None], -torch.inf)
            order = places.argsort(dim=1)
            yield rows, *_best(places.gather(1, order), scores.gather(1, order), self.k)

    def _floor(self, rows: slice) -> Tensor:
        """Return the scores [n] below which no row of the k best can lie; in the screen's type, rounding included."""
        best = self.best[rows]
        error = NORM * (self.query_residual[rows] + self.corpus_residual + self.gamma * NORM)
        rounding = ROUNDING[self.dtype]
        floor = (best - 2 * error * (1 + 2 * rounding) - 3.2 * rounding * best.abs() - TINY).to(self.dtype)
        return floor.masked_fill(self.overflowed[rows], torch.inf)

    def _look(self, rows: slice, tile: Tensor, start: int) -> None:
        """Score a tile and take over what reaches the floor."""
        queries, size = self.rounded[rows], len(tile)
        padded = -(-size // GROUP) * GROUP
        scores = self.buffer[: len(queries) * padded].view(len(queries), padded)
        if padded > size:
            tile = torch.cat([tile, tile.new_zeros((padded - size, tile.shape[1]))])
        torch.mm(queries, tile.T, out=scores)
        scores[:, size:] = -torch.inf
        if not start:
            self._raise(rows, slice(None), scores)
        floor = self._floor(rows)
        row, place, value = _hits(scores, floor)
        for remedy in (self._shrink_for, self._raise_for, self._give_up):
            full = self.count[rows] + torch.bincount(row, minlength=len(queries)) > self.capacity
            if not bool(full.any()):
                break
            remedy(rows, full, scores)
            keep = value >= self._floor(rows)[row]
            row, place, value = row[keep], place[keep], value[keep]
        self._insert(rows, row, place + start, value)

    def _insert(self, rows: slice, row: Tensor, place: Tensor, value: Tensor) -> None:
        new = torch.bincount(row, minlength=len(self.count[rows]))
        offset = self.count[rows] - (new.cumsum(0) - new)
        offset += torch.arange(len(offset), device=row.device) * self.capacity
        at = offset[row] + torch.arange(len(row), device=row.device)
        self.values[rows].view(-1)[at] = value.float()
        self.places[rows].view(-1)[at] = place.int()
        self.count[rows] += new

    def _renew(self, rows: slice) -> None:
        """Take the k-th best from the candidates."""
        values = self.values[rows, : int(self.count[rows].max())]
        torch.maximum(self.best[rows], _kth(values, self.k), out=self.best[rows])

    def _shrink(self, rows: slice) -> None:
        """Take the k-th best from the candidates and drop those that fell below the floor."""
        self._renew(rows)
        values = self.values[rows]
        row, column = _nonzero(values >= self._floor(rows).float()[:, None])
        value, place = values[row, column], self.places[rows][row, column]
        values.fill_(-torch.inf)
        self.count[rows] = 0
        self._insert(rows, row, place, value)

    def _raise(self, rows: slice, some: slice | Tensor, scores: Tensor) -> None:
        """Take the k-th best of some of the rows from candidates and scores [n, m] together."""
        width = int(self.count[rows].max())
        if scores.shape[1] >= 2 * GROUP * self.k and not width:
            scores = _grouped(scores).amax(1)  # k groups have a member each that reaches the k-th largest of their maxima
        both = torch.cat([self.values[rows, :width][some], scores[some].float()], dim=1)
        best = self.best[rows]
        best[some] = torch.maximum(best[some], _kth(both, self.k))

    # What to do where a row's buffer is full, from the cheapest to the last.

    def _shrink_for(self, rows: slice, full: Tensor, scores: Tensor) -> None:
        self._shrink(rows)

    def _raise_for(self, rows: slice, full: Tensor, scores: Tensor) -> None:
        self._raise(rows, full, scores)
        self._shrink(rows)

    def _give_up(self, rows: slice, full: Tensor, scores: Tensor) -> None:
        self.overflowed[rows] |= full


def _grouped(scores: Tensor) -> Tensor:
    """Return scores [n, m] as [n, GROUP, m / GROUP]: a maximum over the middle axis reads memory in order."""
    return scores.view(len(scores), GROUP, -1)


def _hits(scores: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (row, column, score) of scores [n, m] that reach their row's floor [n], sorted by row."""
    ordered, least = _grouped(scores), floor[:, None]
    if bool((floor > 0).all()):
        # Floats above zero have the order of their bits, and those below have a sign bit: integers compare several times faster.
        integer = torch.int16 if scores.itemsize == 2 else torch.int32
        ordered, least = ordered.view(integer), least.view(integer)
    row, group = _nonzero(ordered.amax(1) >= least)
    members = ordered[row, :, group]
    hit, member = _nonzero(members >= least[row])
    row, column = row[hit], member * ordered.shape[2] + group[hit]
    return row, column, members[hit, member].view(scores.dtype)


def _nonzero(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and columns where a mask [n, m] is true, in the order of rows."""
    if mask.is_cuda:
        row, column = mask.nonzero(as_tuple=True)
        return row, column
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))  # many times faster than torch's where few are true
    return flat // mask.shape[1], flat % mask.shape[1]


def _kth(values: Tensor, k: int) -> Tensor:
    """Return the k-th largest of each row, -inf where there are fewer than k numbers."""
    if values.shape[1] < k:
        return values.new_full((len(values),), -torch.inf)
    if values.is_cuda:
        return values.topk(k, dim=1, sorted=False).values.amin(1)
    ascending = np.sort(values.numpy(), axis=1)  # vectorised: faster than NumPy's or torch's ways to the k-th alone
    best: Tensor = torch.from_numpy(ascending[:, -k].copy())
    return best


def _residual(stored: Tensor, rounded: Tensor) -> Tensor:
    """Return the norm of what the rounding took from each row, rounded up."""
    if stored.dtype == rounded.dtype or rounded.dtype == torch.float32:
        return torch.zeros(len(stored), device=stored.device)
    norm: Tensor = torch.linalg.vector_norm(stored.float() - rounded.float(), dim=1)
    return norm * 1.001


def _best(rows: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of exact scores [n, m], ordered; of equal scores the earlier column comes first."""
    kth = scores.topk(k, dim=1).values[:, -1:]
    above, equal = scores > kth, scores == kth
    keep = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    columns = keep.nonzero()[:, 1].view(-1, k)
    scores, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return rows.gather(1, columns).gather(1, order), scores


def _scan_exactly(queries: Tensor, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Score every corpus row in float64, in any order of summation the same."""
    wide = queries.double()
    rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    scores = torch.empty((len(queries), 0), dtype=torch.float64, device=queries.device)
    for start in range(0, len(vectors), EXACT_TILE):
        tile = vectors[start : start + EXACT_TILE].double()
        places = torch.arange(start, start + len(tile), device=queries.device).expand(len(queries), -1)
        rows, scores = torch.cat([rows, places], dim=1), torch.cat([scores, wide @ tile.T], dim=1)
        if scores.shape[1] > k:
            rows, scores = _best(rows, scores, k)
    return (rows, scores) if scores.shape[1] > k or len(vectors) > EXACT_TILE else _best(rows, scores, k)


def _tiles(spans: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    for start, stop in spans:
        for at in range(start, stop, size):
            yield at, min(stop, at + size)
