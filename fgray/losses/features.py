"""What a loss sees: the features of a batch, and which rows of it are its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

GATHERED = ("image", "text", "negative_texts", "negative_images")
MASKS = ("text_mask", "image_mask")
REGIONS = ("roi", "crop", "region_text")
REGION_NUMBERS = "region_texts"
ALL_ROWS = slice(None)


@dataclass(frozen=True)
class Inputs:
    """What a run brings to its losses besides image-text pairs.

    Args:
        texts: negative texts per sample (K).
        images: negative images per sample (J).
        bias: the model has a logit bias.
        regions: most regions of an image; 0: the run brings no regions.
        gather: how features of other ranks take part, see `fgray.losses.gather`.
    """

    texts: int = 0
    images: int = 0
    bias: bool = False
    regions: int = 0
    gather: Literal["with_grad", "without_grad", "local"] = "with_grad"

    @property
    def names(self) -> frozenset[str]:
        """Return the fields of `Features` that are there."""
        there = {"negative_texts": self.texts, "negative_images": self.images, "bias": self.bias, **dict.fromkeys(REGIONS, self.regions)}
        return frozenset(name for name, value in there.items() if value)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a batch of B pairs, and of the M regions of their images.

    An image has any number of regions, also none; a region has no image here, because no loss asks for it.

    Args:
        image: [B, D], unit length.
        text: [B, D], unit length; text[i] belongs to image[i].
        scale: [], the factor of cosines, exp(logit_scale), already clamped.
        bias: [], added to the logits (SigLIP).
        negative_texts: [B, K, D], negatives of pair i in row i; rows of zeros where there is none.
        text_mask: bool [B, K], which negative texts are there; None: all.
        negative_images: [B, J, D]; rows of zeros where there is none.
        image_mask: bool [B, J]; None: all.
        roi: [M, D], unit length, the image's dense features pooled under each box.
        crop: [M, D], unit length, the features of the boxes cut out: the teacher's.
        region_text: [M, D], unit length, the captions of the regions.
        region_texts: int64 [M], equal for equal captions.
        own_regions: this rank's among the M regions.
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
    roi: Tensor | None = None
    crop: Tensor | None = None
    region_text: Tensor | None = None
    region_texts: Tensor | None = None
    own_regions: slice = field(default_factory=lambda: ALL_ROWS)
    rows: slice = field(default_factory=lambda: ALL_ROWS)

    @property
    def size(self) -> int:
        """Return B, the pairs of the batch, those of other ranks included."""
        return self.image.shape[0]

    @property
    def parts(self) -> int:
        """Return in how many equal parts the pairs are cut: 1, or in local mode the number of ranks."""
        return self.size // len(range(self.size)[self.rows])

    @property
    def region_rows(self) -> slice:
        """Return the regions whose terms a loss sums: all, or those of this rank where `rows` are this rank's, too."""
        return self.own_regions if self.parts > 1 else ALL_ROWS

    @property
    def regions(self) -> int:
        """Return M, the regions of the batch, those of other ranks included; 0 where there are no regions."""
        return next((len(value) for name in REGIONS if (value := getattr(self, name)) is not None), 0)

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
        name: torch.cat([getattr(p, name) for p in parts])
        for name in (*GATHERED, *MASKS, *REGIONS, REGION_NUMBERS)
        if getattr(first, name) is not None
    }
    return dataclasses.replace(first, rows=ALL_ROWS, own_regions=ALL_ROWS, **joined)
