"""Embedding requests for images and texts: one address per content."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from fgray.data.index import ImageIndex
from fgray.engine.units import ID_TYPE, item_id

IMAGE, TEXT, REGION = "embed_image", "embed_text", "embed_region"


def image_requests(index: ImageIndex, keys: Sequence[str], fingerprint: str, max_pixels: int, kind: str = IMAGE) -> pa.Table:
    """Return one row per key, in order: item_id and where the image lies (the columns of the index).

    Args:
        index: where the images lie.
        keys: which of them.
        fingerprint: of the model with its preprocessing.
        max_pixels: larger images are quarantined; part of the address, because the store keeps that verdict too.
        kind: what is asked of them.

    Raises:
        DataError: a key is not in the index.
    """
    rows = index.locate(keys)
    ids = [item_id(kind, fingerprint, digest + str(max_pixels).encode()) for digest in rows["sha256"].to_pylist()]
    root = pa.array([index.root_uri] * rows.num_rows, pa.string())
    return rows.append_column("item_id", pa.array(ids, ID_TYPE)).append_column("root", root)


def text_requests(texts: Sequence[str], fingerprint: str) -> pa.Table:
    """Return one row per text, in order: item_id and text."""
    ids = [item_id(TEXT, fingerprint, text.encode()) for text in texts]
    return pa.table({"item_id": pa.array(ids, ID_TYPE), "text": pa.array(list(texts), pa.string())})
