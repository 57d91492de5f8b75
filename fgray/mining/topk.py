"""Exact top-k of dot products: a fast screen in low precision with a proven error bound, then exact float64 scores.

The screen (`fgray.mining.screen`) leaves per query the corpus rows that may belong to the k best. They are scored again in
float64, which is exact for vectors of `fgray.mining.vectors`, and ordered by (score descending, corpus row ascending). A query with more
candidates near the k-th place than its buffer holds (thousands of duplicates) goes to the next tier: a screen in fp32, and last a
float64 product of the whole row. So the result depends on neither tier, tile, threads nor device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgray.mining.screen import Corpus, Screen, screen_bytes, screen_types

EXACT_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 26}  # float64 numbers at once
EXACT_TILE = 1024

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def top_k(queries: Tensor, corpus: Corpus, k: int, ready: Iterable[tuple[int, int]] | None = None) -> Found:
    """Return the k corpus rows with the largest dot products per query; within `full_precision`, as the screen's bound presumes.

    Args:
        queries: stored rows [Q, D] on the corpus' device.
        corpus: what is searched.
        k: how many.
        ready: consecutive (start, stop) of corpus rows as they become readable; by default all are.

    Returns:
        Rows int64 [Q, k] and exact scores float64 [Q, k], by (score descending, row ascending); -1 and -inf where the corpus
        has fewer than k rows.
    """
    total = len(corpus.vectors)
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf)
    wanted = min(k, total)
    left = np.arange(len(queries))
    spans = ready if ready is not None else [(0, total)]
    for dtype in screen_types(queries.device):
        screen = Screen(queries[torch.from_numpy(left)], corpus, wanted, dtype)
        screen.run(spans)
        for done, places in screen.candidates():
            found = score_exactly(queries, corpus.vectors, left[done], places, wanted)
            rows[left[done], :wanted], scores[left[done], :wanted] = found
        left, spans = left[screen.overflowed], [(0, total)]
        if not len(left):
            return rows, scores
    step = max(1, EXACT_NUMBERS[queries.device.type] // (EXACT_TILE + k))
    for first in range(0, len(left), step):
        part = left[first : first + step]
        rows[part, :wanted], scores[part, :wanted] = _scan_exactly(queries[torch.from_numpy(part)], corpus.vectors, wanted)
    return rows, scores


def row_bytes(dim: int, k: int) -> int:
    """Return the memory that `top_k` takes per query: its candidates, its result, its stored and rounded vector."""
    return 8 * Screen.capacity_for(k) + 32 * k + 16 * dim


def fixed_bytes(dim: int, k: int) -> int:
    """Return the memory that `top_k` takes on a CPU besides: a tile of scores and its like, rows in float64."""
    one_query = 16 * Screen.capacity_for(k) * dim  # its candidates as stored, in fp32 and in float64
    return screen_bytes(dim, k) + max(80 * EXACT_NUMBERS["cpu"], one_query)


def score_exactly(queries: Tensor, vectors: Tensor, rows: npt.NDArray[np.int64], places: npt.NDArray[Any], k: int) -> Found:
    """Score candidates [n, m] (-1: none) of query rows [n] in float64 and return the k best [n, k] of each."""
    dim, width = vectors.shape[1], places.shape[1]
    step = max(1, EXACT_NUMBERS[vectors.device.type] // (width * dim))
    found: list[tuple[Tensor, Tensor]] = []
    for first in range(0, len(rows), step):
        place = torch.from_numpy(np.sort(places[first : first + step], axis=1)).to(vectors.device).long()
        # Through fp32, which holds every stored type and is converted much faster.
        near = vectors.index_select(0, place.clamp(min=0).view(-1)).float().double().view(len(place), width, dim)
        query = queries[torch.from_numpy(rows[first : first + step])].float().double()
        # A sum of zeros may be -0.0, depending on who adds; 0.0 added to it is 0.0.
        products = _products(near, query).add_(0.0).masked_fill_(place < 0, -torch.inf)
        scores, order = torch.sort(products, dim=1, descending=True, stable=True)
        found.append((place.gather(1, order[:, :k]), scores[:, :k]))
    best, exact = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return best, exact


def _products(vectors: Tensor, query: Tensor) -> Tensor:
    """Return [n, m] dot products of float64 [n, m, D] and [n, D]."""
    if vectors.is_cuda:
        return torch.bmm(vectors, query[:, :, None])[:, :, 0]
    return torch.from_numpy(np.matmul(vectors.numpy(), query.numpy()[:, :, None])[:, :, 0])  # torch's is eight times slower


def _scan_exactly(queries: Tensor, vectors: Tensor, k: int) -> Found:
    """Score every corpus row in float64 and return the k best."""
    wide = queries.double()
    rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    scores = torch.empty((len(queries), 0), dtype=torch.float64, device=queries.device)
    for start in range(0, len(vectors), EXACT_TILE):
        tile = vectors[start : start + EXACT_TILE].double()
        places = torch.arange(start, start + len(tile), device=queries.device).expand(len(queries), -1)
        rows, scores = torch.cat([rows, places], dim=1), torch.cat([scores, (wide @ tile.T).add_(0.0)], dim=1)
        # Earlier tiles stand first and equal scores keep their order, so they stay ordered by row.
        rows, scores = _best(rows, scores, min(k, scores.shape[1]))
    return rows.cpu().numpy(), scores.cpu().numpy()


def _best(rows: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of exact scores [n, m], ordered; of equal scores the earlier column comes first."""
    kth = scores.topk(k, dim=1).values[:, -1:]
    above, equal = scores > kth, scores == kth
    keep = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    columns = keep.nonzero()[:, 1].view(-1, k)
    scores, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return rows.gather(1, columns).gather(1, order), scores
