"""Who embeds the crops of self-distillation: another copy of the image tower than the one that is trained, without gradient."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

TeacherKind = Literal["live", "stop_gradient", "ema", "frozen"]
VISUAL = "visual."


class Teacher:
    """A copy of the image tower as it was before training; no part of the module that is trained, sharded or saved.

    Every rank holds it whole, at ZeRO-3, too.

    Args:
        towers: an open_clip model.
    """

    def __init__(self, towers: Any) -> None:
        self.visual: nn.Module = deepcopy(towers.visual).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return features [N, D], of any length, of normalised pictures [N, 3, H, W]."""
        features: Tensor = self.visual.to(pixels.device)(pixels)
        return features

    @torch.no_grad()
    def take(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take weights by open_clip's names, of any shape with as many elements."""
        own = dict(self.visual.named_parameters())
        for name, weight in weights:
            mine = own[name.removeprefix(VISUAL)]
            mine.copy_(weight.reshape(mine.shape))
