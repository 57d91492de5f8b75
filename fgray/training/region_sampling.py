"""Which boxes of a picture a training step sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgray.training.order import Numbers, mix

LEAST_SIDE, MOST_SIDE = 8, 1024
"""A box is used if its area in pixels of the original picture lies between the squares of these (FineCLIP's and CLIPSelf's code)."""

_BOXES = -5  # what the random bits are for


def usable(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which boxes [M, 4] (x, y, width, height) are neither too small nor too large."""
    area = boxes[:, 2] * boxes[:, 3]
    found: npt.NDArray[np.bool_] = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (area >= LEAST_SIDE**2) & (area <= MOST_SIDE**2)
    return found


def choose_boxes(
    boxes: npt.NDArray[np.float64], most: int, seed: int, epoch: int, source: int, sample: int, *, take_then_filter: bool = False
) -> Numbers:
    """Return the numbers of at most `most` usable boxes of a picture, in random order.

    A pure function of its arguments. By default every usable box has the same chance, and as many as may be are used. FineCLIP's code
    draws first and drops the unusable ones of those drawn; `take_then_filter` does the same.

    Args:
        boxes: [M, 4] as x, y, width, height in pixels of the original picture; M may be 0.
        most: how many at most.
        seed: of the run.
        epoch: number of the pass over the source.
        source: number of the source.
        sample: number of the pair in its source.
        take_then_filter: as FineCLIP's code.
    """
    order = np.argsort(mix(seed, _BOXES, source, sample, epoch, np.arange(len(boxes))), kind="stable") if len(boxes) else np.zeros(0, int)
    kept = usable(boxes)[order]
    return order[:most][kept[:most]] if take_then_filter else order[kept][:most]
