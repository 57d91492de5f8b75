"""What a run asks of a model: images and texts by content, and the units of what the store lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from fgray.data.index import ImageIndex
from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE, Unit, item_id, make_units, missing_items
from fgray.runs import ITEM_SCHEMA

IMAGE, TEXT = "embed_image", "embed_text"


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


@dataclass(frozen=True)
class Work:
    """What a run asks of a model, and what of it the store lacks.

    Attributes:
        images, texts: distinct requested items.
        units: the missing ones, cut into units.
        missing: how many items those are.
    """

    images: pa.Table
    texts: pa.Table
    units: list[Unit]

    @property
    def requested(self) -> int:
        """Return the number of distinct items asked for."""
        return int(self.images.num_rows + self.texts.num_rows)

    def items(self) -> pa.Table:
        """Return rows of ``ITEM_SCHEMA``: what the run reads from the store."""
        kinds = [(IMAGE, self.images), (TEXT, self.texts)]
        names = [kind for kind, table in kinds for _ in range(table.num_rows)]
        ids = pa.chunked_array([chunk for _, table in kinds for chunk in table["item_id"].chunks], ID_TYPE)
        return pa.table({"kind": names, "item_id": ids}, ITEM_SCHEMA)

    @property
    def missing(self) -> int:
        """Return the number of items to compute."""
        return sum(unit.items.num_rows for unit in self.units)


def plan_work(images: pa.Table, texts: pa.Table, store: ResultStore, unit_rows: int) -> Work:
    """Subtract what is stored from what is requested and cut the rest into units, image units by shard and offset."""
    nothing = pa.array([], ID_TYPE)
    wanted_images = missing_items(images, nothing).sort_by(
        [("root", "ascending"), ("shard", "ascending"), ("offset", "ascending"), ("row", "ascending")]
    )
    wanted_texts = missing_items(texts, nothing)
    new_images = missing_items(wanted_images, store.stored_ids(IMAGE))
    new_texts = missing_items(wanted_texts, store.stored_ids(TEXT))
    units = make_units(TEXT, new_texts, unit_rows) + make_units(IMAGE, new_images, unit_rows, group="root")
    return Work(wanted_images, wanted_texts, units)
