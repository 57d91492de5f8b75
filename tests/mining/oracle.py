"""Top-k by whole numbers: stored vectors are multiples of 2^-26, so their dot products are exact as int64."""

from __future__ import annotations

import numpy as np
import torch

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def unit_rows(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return random unit vectors, float64 [rows, dim]."""
    values = np.random.default_rng(seed).standard_normal((rows, dim))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def as_kept(values: np.ndarray, dtype: str) -> torch.Tensor:
    """Return what a set of vectors keeps of floats: rounded by torch to the type and then to the grid."""
    rounded = torch.from_numpy(np.asarray(values, np.float32)).to(TORCH[dtype]).double()
    return (torch.round(rounded * 2**26) / 2**26).to(TORCH[dtype])


def whole_numbers(vectors: torch.Tensor) -> np.ndarray:
    """Return stored vectors in units of 2^-26, int64."""
    scaled = vectors.double().numpy() * 2.0**26
    numbers = scaled.astype(np.int64)
    assert (numbers == scaled).all(), "not on the grid"
    return numbers


def exact_scores(queries: torch.Tensor, corpus: torch.Tensor) -> np.ndarray:
    """Return dot products in units of 2^-52, int64 [Q, N]; NumPy multiplies integers without BLAS."""
    return whole_numbers(queries) @ whole_numbers(corpus).T


def best_of(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows int64 [Q, k] and scores float64 [Q, k] by (score descending, row ascending); -1 and -inf fill up."""
    rows, values = np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf)
    for query, own in enumerate(scores):
        order = np.lexsort((np.arange(len(own)), -own))[:k]
        rows[query, : len(order)], values[query, : len(order)] = order, own[order] / 2.0**52
    return rows, values


def check(found: tuple[np.ndarray, np.ndarray], queries: torch.Tensor, corpus: torch.Tensor, k: int) -> None:
    """Compare an answer with whole numbers: rows, and the bits of the scores."""
    rows, scores = best_of(exact_scores(queries, corpus), k)
    assert found[0].dtype == np.int64 and found[1].dtype == np.float64
    np.testing.assert_array_equal(found[0], rows)
    assert found[1].tobytes() == scores.tobytes()
