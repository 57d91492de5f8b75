"""What a model must offer, and what fgray writes down about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]  # [N, H, W, 3], after resize and crop, before normalisation
Embeddings = npt.NDArray[np.float32]  # [N, D], rows of unit length


@dataclass(frozen=True)
class ModelCard:
    """The facts that pin a model's scores; it stands in run.json and in the report.

    Attributes:
        name: short name for tables.
        kind: the `kind` of its configuration.
        architecture: what it is.
        weights: where the weights come from ("random, seed 0" counts).
        activation: "gelu", "quick_gelu", or another activation that the architecture names.
        dtype: arithmetic of the forward pass: fp32, bf16 or fp16.
        image_size: height and width of its input.
        context_length: tokens that a text may have; longer ones are cut and counted. None: no limit.
        preprocess: resize, crop, interpolation, mean, std in plain values.
        notes: one-line warnings for the reader of a report ("Not a pretrained CLIP").
    """

    name: str
    kind: str
    architecture: str
    weights: str
    activation: str
    dtype: str
    image_size: tuple[int, int]
    context_length: int | None
    preprocess: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class TextEmbeddings(NamedTuple):
    """Embeddings of texts, and which of them were cut at the context length."""

    values: Embeddings  # [N, D]
    truncated: npt.NDArray[np.bool_]  # [N]


@runtime_checkable
class ImagePreprocess(Protocol):
    """Turns one decoded picture into the model's input pixels; must be picklable and needs no weights."""

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return [H, W, 3] of a fixed size for an RGB picture of any size."""
        ...


class PlacedRegions(NamedTuple):
    """Regions of a few pictures, placed in the model's input.

    Attributes:
        picture_of: which picture a region lies in.
        boxes: x0, y0, x1, y1 in fractions of the input's width and height.
        masked: the region is a mask, not a box.
        cells: where the region is a mask, 1 for the cells of the feature map that it covers; None without any mask.
    """

    picture_of: npt.NDArray[np.int64]  # [M]
    boxes: npt.NDArray[np.float32]  # [M, 4]
    masked: npt.NDArray[np.bool_]  # [M]
    cells: npt.NDArray[np.uint8] | None  # [M, h, w]


class DualEncoder(Protocol):
    """A loaded model that embeds images and texts into one space. Batches are small and of fixed size."""

    card: ModelCard

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Return unit-length fp32 embeddings [N, D] of preprocessed images [N, H, W, 3]."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Return unit-length fp32 embeddings [N, D]; a row must not depend on its neighbours or on N."""
        ...


@runtime_checkable
class RegionEncoder(Protocol):
    """What a loaded model with dense features offers besides."""

    def embed_regions(self, pixels: Pixels, regions: PlacedRegions) -> Embeddings:
        """Return fp32 embeddings [M, D] of regions of square pictures [N, S, S, 3]; unit rows, or zero for a mask without any cell."""
        ...


@runtime_checkable
class DenseSource(Protocol):
    """A model that is not yet loaded and can say whether it has dense features."""

    def cell_size(self) -> int:
        """Return the side in px of a cell of its feature map; its loaded form is a `RegionEncoder`.

        Raises:
            ModelError: its image tower gives no dense features.
        """
        ...


class ModelSource(Protocol):
    """A model that is named but not yet loaded: cheap to describe, picklable, loaded once per worker."""

    card: ModelCard
    preprocess: ImagePreprocess

    def fingerprint(self) -> str:
        """Return a hex digest of everything that can change an embedding by more than the numerics class does.

        That is: weights (their content, never their location), architecture, activation, dtype, tokenizer, preprocessing.
        """
        ...

    def load(self, device: str) -> DualEncoder:
        """Build the model on "cpu" or "cuda" in evaluation mode.

        Raises:
            ModelError: the weights cannot be read, do not fit, or are not safe to load.
        """
        ...
