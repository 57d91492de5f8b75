"""The part that all torch models share: batches of fixed shape in, unit-length fp32 embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fgray.errors import ModelError
from fgray.models.base import Embeddings, ModelCard, Pixels, PlacedRegions, TextEmbeddings
from fgray.models.region_pooling import mask_pool, roi_pool

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_ROWS = {"cpu": 32, "cuda": 256}  # rows of every text forward: one shape, so a row's bits depend on nothing else


class Tokens(NamedTuple):
    """Token ids of texts, each padded to a length that depends on that text alone."""

    rows: list[list[int]]
    truncated: npt.NDArray[np.bool_]  # [N]


class TorchEncoder:
    """A `DualEncoder` made of two towers.

    Args:
        card: the model's card; its dtype is the towers' dtype.
        device: "cpu" or "cuda"; the towers are there already.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        image_tower: normalised images [N, 3, H, W] of the card's dtype -> features [N, D].
        text_tower: token ids [N, L] int64 -> features [N, D].
        tokenise: texts -> `Tokens`.
        dense_tower: normalised pictures [N, 3, S, S] of the card's dtype -> unit features of their cells [N, h, w, D]; None: it has none.

    Attributes:
        image_tower: as given; benchmarks time it bare.
    """

    def __init__(
        self,
        card: ModelCard,
        device: str,
        mean: Sequence[float],
        std: Sequence[float],
        image_tower: Callable[[torch.Tensor], torch.Tensor],
        text_tower: Callable[[torch.Tensor], torch.Tensor],
        tokenise: Callable[[Sequence[str]], Tokens],
        dense_tower: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.card = card
        self._device = torch.device(device)
        self._dtype = TORCH_DTYPES[card.dtype]
        self._mean = torch.tensor(mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self._device).view(1, 3, 1, 1)
        self.image_tower, self._text_tower, self._tokenise = image_tower, text_tower, tokenise
        self._dense_tower = dense_tower

    @torch.inference_mode()
    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Return unit-length fp32 embeddings [N, D] of uint8 pixels [N, H, W, 3]; the forward has exactly N rows."""
        with self._exact_convolutions():
            return self._unit_rows(self.image_tower(self._normalised(pixels)))

    @torch.inference_mode()
    def embed_regions(self, pixels: Pixels, regions: PlacedRegions) -> Embeddings:
        """Return fp32 embeddings [M, D] of regions of pictures [N, S, S, 3]: unit rows, or zero for a mask without any cell.

        The pictures go through the tower once, exactly N at a time; a region's row does not depend on the other regions.

        Raises:
            ModelError: the model has no dense features.
        """
        if self._dense_tower is None:
            raise ModelError("the model gives no dense features", where=self.card.name, fix="use crops of the regions (mode crop)")
        with self._exact_convolutions():
            tokens = self._dense_tower(self._normalised(pixels))
        values = np.empty((len(regions.picture_of), tokens.shape[-1]), np.float32)
        for rows, pool, shapes in ((~regions.masked, roi_pool, regions.boxes), (regions.masked, mask_pool, regions.cells)):
            if shapes is not None and rows.any():
                chosen, picture_of = (torch.from_numpy(array[rows]).to(self._device) for array in (shapes, regions.picture_of))
                values[rows] = self._unit_rows(pool(tokens, chosen, picture_of))
        return values

    def _normalised(self, pixels: Pixels) -> torch.Tensor:
        """Return pictures [N, 3, H, W] on the device in the card's dtype."""
        pixels = np.require(pixels, requirements=["C", "W"])  # arrays out of Ray's object store are read-only
        images = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2)
        # The same four steps in the same order as ToTensor and Normalize, so that the bits agree with open_clip's.
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std).to(self._dtype)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Return unit-length fp32 embeddings [N, D] of texts; every row is independent of the others and of N."""
        tokens = self._tokenise(list(texts))
        by_length: dict[int, list[int]] = {}
        for position, row in enumerate(tokens.rows):
            by_length.setdefault(len(row), []).append(position)
        size = TEXT_ROWS[self._device.type]
        parts: list[tuple[list[int], Embeddings]] = []
        for positions in by_length.values():
            for start in range(0, len(positions), size):
                chosen = positions[start : start + size]
                rows = [tokens.rows[position] for position in chosen]
                rows += [rows[-1]] * (size - len(rows))
                ids = torch.tensor(rows, dtype=torch.int64).to(self._device)
                parts.append((chosen, self._unit_rows(self._text_tower(ids))[: len(chosen)]))
        if not parts:
            raise ModelError("no texts to embed", where=self.card.name, fix="give at least one")
        values = np.empty((len(texts), parts[0][1].shape[1]), np.float32)
        for chosen, rows_out in parts:
            values[chosen] = rows_out
        return TextEmbeddings(values, tokens.truncated)

    def _exact_convolutions(self) -> AbstractContextManager[object]:
        """Keep cuDNN from rounding fp32 convolutions to TF32 (three decimal digits), for the time of one call."""
        if self._device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)

    def _unit_rows(self, features: torch.Tensor) -> Embeddings:
        unit = torch.nn.functional.normalize(features.to(torch.float32), dim=-1).cpu().numpy()
        if not np.isfinite(unit).all():
            fix = "use dtype fp32" if self.card.dtype == "fp16" else "check the weights"
            raise ModelError("the model's embeddings are not finite numbers", where=self.card.name, fix=fix)
        return unit


def padded_rows(ids: list[list[int]], limit: int, pad_id: int, multiple: int) -> list[list[int]]:
    """Pad each row to its own length rounded up to a multiple, at most `limit`; rows must not exceed `limit`."""
    lengths = (min(limit, -(-len(row) // multiple) * multiple) for row in ids)
    return [row + [pad_id] * (length - len(row)) for row, length in zip(ids, lengths, strict=True)]
