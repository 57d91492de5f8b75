"""Random and hand-made features for the tests of losses."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fgray.losses.features import Features, Inputs

INPUTS = Inputs(texts=3, images=2, bias=True)


def batch(seed: int, size: int = 4, scale: float = 14.3, dim: int = 5) -> Features:
    """Return random float64 features with holes among the negatives; row 0 has none, all of row 1's are there."""
    rng = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, dim, generator=rng, dtype=torch.float64), dim=-1)

    masks = [torch.rand(size, k, generator=rng) < 0.6 for k in (INPUTS.texts, INPUTS.images)]
    for mask in masks:
        mask[0], mask[1] = False, True
    return Features(
        image=unit(size),
        text=unit(size),
        scale=torch.tensor(scale, dtype=torch.float64),
        bias=torch.tensor(-3.0, dtype=torch.float64),
        negative_texts=unit(size, INPUTS.texts) * masks[0][..., None],
        text_mask=masks[0],
        negative_images=unit(size, INPUTS.images) * masks[1][..., None],
        image_mask=masks[1],
    )


def plain(features: Features) -> dict[str, Any]:
    """Return the features as lists and floats, under the names of the references' arguments."""
    values = {field.name: getattr(features, field.name) for field in dataclasses.fields(features)}
    return {name: value.tolist() for name, value in values.items() if isinstance(value, Tensor)}


def axes(*numbers: int) -> Tensor:
    """Return unit vectors of the plane, float64."""
    return torch.eye(2, dtype=torch.float64)[list(numbers)]


LN3 = torch.tensor(3.0, dtype=torch.float64).log()  # cosine 1 -> exp(logit) 3, cosine 0 -> 1: softmaxes by counting
