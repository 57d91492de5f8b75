"""Made-up embeddings of image-text pairs for the benches of mining."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fgray.config.schema import Dtype
from fgray.mining.vectors import to_fp32, to_stored

LATENT = 32  # directions that carry what both halves of a pair share
SHARED = 3.0  # noise over signal per component: cosines of pairs near 0.7, of the hardest others not far below
CHUNK = 16_384

Floats = npt.NDArray[np.float32]


def paired_vectors(rows: int, dim: int, seed: int = 0) -> Iterator[tuple[Floats, Floats]]:
    """Yield (images, texts) in chunks, unit rows fp32 [n, dim] each; row i of both belongs together.

    Pairs share a point of a space of few dimensions, as embeddings of real data do, and differ by noise; so neighbours are
    neighbours for a reason and scores spread. The same arguments give the same numbers.
    """
    basis = np.random.default_rng([seed, dim]).standard_normal((LATENT, dim), np.float32)
    for start in range(0, rows, CHUNK):
        draw = np.random.default_rng([seed, dim, 1 + start])
        points = draw.standard_normal((min(CHUNK, rows - start), LATENT), np.float32) @ basis
        yield _unit(points, draw), _unit(points, draw)


def as_stored(values: Floats, dtype: Dtype) -> Floats:
    """Return what fgray's search sees of unit rows kept in a storage type; the other side gets the same numbers."""
    wide = values.astype(np.float64)
    return to_fp32(to_stored((wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32), dtype), dtype)


def _unit(points: Floats, draw: np.random.Generator) -> Floats:
    values = points + SHARED * draw.standard_normal(points.shape, np.float32)
    unit: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit
