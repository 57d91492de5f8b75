"""The most similar wrong labels of each image: FOCI's choice of options, as one function of embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgray.mining.vectors import to_stored

BLOCK = 1024  # images scored at a time


@dataclass(frozen=True)
class Options:
    """The chosen labels of N images.

    Attributes:
        wrong: int64 [N, k] label numbers, the most similar last.
        scores: float64 [N, k] their cosines.
        truth_score: float64 [N] cosine of the right label.
        truth_rank: int64 [N] place of the right label among all, from 1.
    """

    wrong: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    truth_score: npt.NDArray[np.float64]
    truth_rank: npt.NDArray[np.int64]


def choose_options(images: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], wrong: int) -> Options:
    """Return the `wrong` most similar wrong labels of every image, in ascending order of similarity.

    FOCI (arXiv 2406.14496, ``options_generation.generate_options``) takes the last four of an ascending argsort over all labels, and
    puts the right label first: in place of itself where it is among them, else of the least similar one. Either way the others
    are the three most similar wrong labels, which is what is computed here. The argsort is stable: of labels with equal
    cosines the later one counts as more similar.

    Args:
        images: unit rows [N, D].
        labels: unit rows [L, D].
        truth: [N] the right label of each image.
        wrong: how many to choose, less than L.
    """
    count, total = len(images), len(labels)
    chosen = np.empty((count, wrong), np.int64)
    scores = np.empty((count, wrong), np.float64)
    truth_score, truth_rank = np.empty(count, np.float64), np.empty(count, np.int64)
    prompts, numbers = _exact(labels).T, np.arange(total)
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        cosines, right = _exact(images[block]) @ prompts, truth[block, None]
        own = np.take_along_axis(cosines, right, axis=1)
        ahead = (cosines > own) | ((cosines == own) & (numbers > right))
        truth_score[block], truth_rank[block] = own[:, 0], ahead.sum(axis=1) + 1
        np.put_along_axis(cosines, right, -np.inf, axis=1)
        chosen[block] = np.argsort(cosines, axis=1, kind="stable")[:, total - wrong :]
        scores[block] = np.take_along_axis(cosines, chosen[block], axis=1)
    return Options(chosen, scores, truth_score, truth_rank)


def _exact(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the vectors on the grid on which float64 products have no rounding error, so that equal labels tie exactly."""
    return to_stored(vectors, "fp32").astype(np.float64)
