"""A batch as the tensors of forward passes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fgray.training.batch import Batch

if TYPE_CHECKING:
    from fgray.training.model import Trainable


@dataclass(frozen=True)
class RegionTensors:
    """The M regions of a forward pass.

    Attributes:
        boxes: float32 [M, 4], x0, y0, x1, y1 in fractions of the picture.
        image_of: int64 [M], picture of each region, ascending.
        crops: uint8 [M, S, S, 3] of the model's own size; None: their features are not wanted.
        text_rows: int64 [M], row of each region's caption among the tokens; None: its features are not wanted.
        text_numbers: int64 [M], equal for equal captions; None as `text_rows`.
    """

    boxes: Tensor
    image_of: Tensor
    crops: Tensor | None
    text_rows: Tensor | None
    text_numbers: Tensor | None

    def to(self, device: torch.device) -> RegionTensors:
        """Return them on a device."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    @property
    def pictures(self) -> Tensor:
        """Return the pictures that have regions, ascending, int64 [K]; the first one where none has.

        Ranks that share cut weights must run all modules equally often, so some picture's cells are always computed.
        """
        found: Tensor = torch.unique(self.image_of)
        return found if len(found) else found.new_zeros(1)

    def without_crops(self) -> RegionTensors:
        """Return them without crops."""
        return replace(self, crops=None)


@dataclass(frozen=True)
class MicroBatch:
    """The tensors of one forward pass, on the CPU; the arguments of `ContrastiveModel.forward`.

    Attributes:
        pixels: uint8 [N, H, W, 3].
        tokens: int64 [M, L].
        size: pairs B.
        text_index: int64 [B, K].
        image_index: int64 [B, J].
        regions: of the B images; None: the run has none.
    """

    pixels: Tensor
    tokens: Tensor
    size: int
    text_index: Tensor
    image_index: Tensor
    regions: RegionTensors | None = None


def prepare(batch: Batch, trainable: Trainable, micro_batch: int | None = None) -> list[MicroBatch]:
    """Return a rank's batch as the tensors of its forward passes; may run in a thread ahead of the step.

    Args:
        batch: the rank's part of the step.
        trainable: brings the tokenizer.
        micro_batch: pairs of one forward pass; None: all.
    """
    return [_tensors_of(part, trainable) for part in ([batch] if micro_batch is None else batch.micro(micro_batch))]


def _tensors_of(part: Batch, trainable: Trainable) -> MicroBatch:
    texts, regions = part.texts, None
    if part.regions is not None:
        rows, numbers = None, None
        if part.regions.texts is not None:
            captions = list(dict.fromkeys(part.regions.texts))  # equal ones are embedded once
            places = {caption: len(texts) + place for place, caption in enumerate(captions)}
            rows = torch.tensor([places[caption] for caption in part.regions.texts], dtype=torch.int64)
            numbers = torch.tensor([_number_of(caption) for caption in part.regions.texts], dtype=torch.int64)
            texts = texts + captions
        boxes, image_of, crops = part.regions.boxes, part.regions.image_of, part.regions.crops
        cut = None if crops is None else torch.from_numpy(crops)
        regions = RegionTensors(torch.from_numpy(boxes), torch.from_numpy(image_of), cut, rows, numbers)
    return MicroBatch(
        torch.from_numpy(part.images),
        trainable.tokens(texts),
        part.size,
        torch.from_numpy(part.text_index),
        torch.from_numpy(part.image_index),
        regions,
    )


def _number_of(text: str) -> int:
    """Return 64 bits that are equal for equal texts, on every rank."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
