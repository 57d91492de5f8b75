"""What a loss sees: the features of a batch, and which rows of it are its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

GATHERED = ("image", "text", "negative_texts", "negative_images")
MASKS = ("text_mask", "image_mask")
ALL_ROWS = slice(None)


@dataclass(frozen=True)
class Inputs:
    """What a run brings to its losses besides image-text pairs.

    Args:
        texts: negative texts per sample (K).
        images: negative images per sample (J).
        bias: the model has a logit bias.
    """

    texts: int = 0
    images: int = 0
    bias: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Return the fields of `Features` that are there."""
        there = {"negative_texts": self.texts, "negative_images": self.images, "bias": self.bias}
        return frozenset(name for name, value in there.items() if value)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a batch of B pairs.

    Args:
        image: [B, D], unit length.
        text: [B, D], unit length; text[i] belongs to image[i].
        scale: [], the factor of cosines, exp(logit_scale), already clamped.
        bias: [], added to the logits (SigLIP).
        negative_texts: [B, K, D], negatives of pair i in row i; rows of zeros where there is none.
        text_mask: bool [B, K], which negative texts are there; None: all.
        negative_images: [B, J, D]; rows of zeros where there is none.
        image_mask: bool [B, J]; None: all.
        rows: the rows whose terms a loss sums: all, or those of this rank.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None = None
    negative_texts: Tensor | None = None
    text_mask: Tensor | None = None
    negative_images: Tensor | None = None
    image_mask: Tensor | None = None
    rows: slice = field(default_factory=lambda: ALL_ROWS)

    @property
    def size(self) -> int:
        """Return B, the pairs of the batch, those of other ranks included."""
        return self.image.shape[0]

    def full_precision(self) -> Features:
        """Return the features with 16-bit tensors in float32, so that softmaxes and sums over ranks keep their digits."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        half: dict[str, Any] = {
            name: x.float() for name, x in fields.items() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
        }
        return dataclasses.replace(self, **half) if half else self


def concatenate(parts: Sequence[Features]) -> Features:
    """Return the micro-batches of one rank as one batch, in order; all rows are summed.

    Args:
        parts: one or more; all bring the same fields, K and J. Scale and bias are those of the first.
    """
    first = parts[0]
    joined: dict[str, Any] = {
        name: torch.cat([getattr(p, name) for p in parts]) for name in GATHERED + MASKS if getattr(first, name) is not None
    }
    return dataclasses.replace(first, rows=ALL_ROWS, **joined)
