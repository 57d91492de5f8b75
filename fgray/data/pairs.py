"""Image-text pairs: what mining starts from and training reads."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fgray.data.index import ImageIndex

PAIR_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # key of the image index
        pa.field("text", pa.string(), nullable=False),  # a caption of it, as it stands
        pa.field("label", pa.string()),  # class or cluster of the image, where one is known
    ]
)
"""One row per (image, caption), each once, sorted by image and text."""


@dataclass(frozen=True)
class PairSet:
    """Pairs and the images they name.

    Attributes:
        table: rows of ``PAIR_SCHEMA``.
        index: where the images lie.
    """

    table: pa.Table
    index: ImageIndex

    @property
    def images(self) -> list[str]:
        """Return the distinct image keys, sorted."""
        return sorted(pc.unique(self.table["image"]).to_pylist())

    @property
    def texts(self) -> list[str]:
        """Return the distinct captions, sorted."""
        return sorted(pc.unique(self.table["text"]).to_pylist())
