"""Small parts of the model that is trained: its bounded scale, its scalars, attention that both passes compute alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MAX_LOGIT_SCALE = math.log(100)  # CLIP's own bound (Radford et al. 2021, section 2.5): cosines are never scaled by more than 100


class Capped(torch.autograd.Function):
    """``min(x, MAX_LOGIT_SCALE)`` whose gradient vanishes only where a descent step would raise x further above the bound.

    With the gradient of a plain minimum a scale that has once crossed the bound would stay above it for ever.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(value > MAX_LOGIT_SCALE)
        return value.clamp(max=MAX_LOGIT_SCALE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: D102
        (above,) = ctx.saved_tensors
        return torch.where(above, gradient.clamp(min=0), gradient)


def scalars_to_vectors(towers: nn.Module) -> None:
    """Make parameters without dimensions vectors of one element: DeepSpeed 0.19 cannot send the former to other ranks."""
    for module in towers.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                setattr(module, name, nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad))


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep PyTorch's fused attention out: it runs without gradients only, and both passes of cached features compute the same numbers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def scatter(rows: Tensor, index: Tensor) -> Tensor:
    """Return rows [N, D] at index [B, K] as [B, K, D], zeros where the index is negative."""
    return torch.where((index >= 0)[..., None], rows[index.clamp(min=0)], 0.0)
