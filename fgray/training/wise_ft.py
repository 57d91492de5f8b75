"""WiSE-FT: weights between a model before and after fine-tuning (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fgray.errors import DataError


def interpolate(before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return ``(1 - alpha) * before + alpha * after`` for every floating tensor; others are those after.

    The paper's equation 1; alpha = 0 and alpha = 1 give the ends bit for bit.

    Raises:
        DataError: the models differ in their tensors.
    """
    if before.keys() != after.keys():
        other = sorted(before.keys() ^ after.keys())[0]
        raise DataError(f"only one of the models has the tensor '{other}'", fix="interpolate a model with its own fine-tune")
    found: dict[str, Tensor] = {}
    for name, value in after.items():
        start = before[name]
        if start.shape != value.shape:
            what = f"tensor '{name}' is {list(start.shape)} before and {list(value.shape)} after"
            raise DataError(what, fix="interpolate a model with its own fine-tune")
        if not value.is_floating_point() or alpha == 1:
            found[name] = value
        elif alpha == 0:
            found[name] = start
        else:
            found[name] = torch.lerp(start.double(), value.double(), alpha).to(value.dtype)
    return found


@dataclass(frozen=True)
class Point:
    """What a share of the trained weights reaches on the selection set.

    Attributes:
        alpha: share of the trained weights.
        target: value of the metric that shall be large.
        keep: value of the metric that must not fall.
    """

    alpha: float
    target: float
    keep: float


def choose(points: Sequence[Point], before: Point, margin: float) -> Point | None:
    """Return the point to propose, None where none will do.

    The rule: among the shares that keep `keep` within `margin` of its value before training, the one with the largest `target`; of
    equals the smallest share. It must beat the target before training.
    """
    kept = [point for point in points if point.keep >= before.keep - margin and point.target > before.target]
    return max(kept, key=lambda point: (point.target, -point.alpha), default=None)
