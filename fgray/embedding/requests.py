"""Embedding requests for images and texts: one address per content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from fgray.data.index import INDEX_SCHEMA, ImageIndex
from fgray.engine.units import ID_TYPE, ids_of_digests, item_ids

IMAGE, TEXT, REGION = "embed_image", "embed_text", "embed_region"
SLICE = 1 << 18  # requests made at a time

_ID = pa.field("item_id", ID_TYPE)
IMAGE_SCHEMA = pa.schema([*INDEX_SCHEMA, _ID, pa.field("root", pa.string())])
TEXT_SCHEMA = pa.schema([_ID, pa.field("text", pa.string())])


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
    return pa.concat_tables([IMAGE_SCHEMA.empty_table(), *image_request_slices(index, keys, fingerprint, max_pixels, kind)])


def image_request_slices(
    index: ImageIndex, keys: Sequence[str], fingerprint: str, max_pixels: int, kind: str = IMAGE
) -> Iterator[pa.Table]:
    """Yield what `image_requests` returns in slices."""
    places = index.places(keys)
    for start in range(0, len(places), SLICE):
        yield requests_of(index, index.table.take(places.slice(start, SLICE)).combine_chunks(), fingerprint, max_pixels, kind)


def requests_of(index: ImageIndex, rows: pa.Table, fingerprint: str, max_pixels: int, kind: str = IMAGE) -> pa.Table:
    """Return the requests for some rows of an index; see `image_requests`."""
    ids = ids_of_digests(kind, fingerprint, rows["sha256"], str(max_pixels).encode())
    return pa.table([*rows.columns, ids, pa.repeat(index.root_uri, rows.num_rows)], schema=IMAGE_SCHEMA)


def text_requests(texts: Sequence[str], fingerprint: str) -> pa.Table:
    """Return one row per text, in order: item_id and text."""
    return pa.concat_tables([TEXT_SCHEMA.empty_table(), *text_request_slices(texts, fingerprint)])


def text_request_slices(texts: Sequence[str], fingerprint: str) -> Iterator[pa.Table]:
    """Yield what `text_requests` returns in slices."""
    for start in range(0, len(texts), SLICE):
        some = texts[start : start + SLICE]
        yield pa.table([item_ids(TEXT, fingerprint, (text.encode() for text in some)), pa.array(some, pa.string())], schema=TEXT_SCHEMA)
