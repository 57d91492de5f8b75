"""What a run asks of a model, less what the store has, cut into units."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from fgray.embedding.regions import region_units
from fgray.embedding.requests import IMAGE, REGION, TEXT
from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE, Unit, make_units, missing_items
from fgray.runs import ITEM_SCHEMA

_NO_REGIONS = pa.table({"item_id": pa.array([], ID_TYPE)})


@dataclass(frozen=True)
class Work:
    """What a run asks of a model, and what of it the store lacks.

    Attributes:
        images, texts, regions: distinct requested items.
        units: the missing ones, cut into units.
        missing: how many items those are.
    """

    images: pa.Table
    texts: pa.Table
    regions: pa.Table
    units: list[Unit]

    @property
    def requested(self) -> int:
        """Return the number of distinct items asked for."""
        return sum(int(table.num_rows) for _, table in self.tables())

    def tables(self) -> list[tuple[str, pa.Table]]:
        """Return the distinct items by request kind."""
        return [(IMAGE, self.images), (TEXT, self.texts), (REGION, self.regions)]

    def items(self) -> pa.Table:
        """Return rows of ``ITEM_SCHEMA``: what the run reads from the store."""
        names = [kind for kind, table in self.tables() for _ in range(table.num_rows)]
        ids = pa.chunked_array([chunk for _, table in self.tables() for chunk in table["item_id"].chunks], ID_TYPE)
        return pa.table({"kind": names, "item_id": ids}, ITEM_SCHEMA)

    @property
    def missing(self) -> int:
        """Return the number of items to compute."""
        return sum(unit.items.num_rows for unit in self.units)


def plan_work(
    images: pa.Table,
    texts: pa.Table,
    store: ResultStore,
    unit_rows: int,
    regions: pa.Table = _NO_REGIONS,
    own_size: tuple[int, int] = (1, 1),
) -> Work:
    """Subtract what is stored from what is requested and cut the rest into units, image units by shard and offset.

    Args:
        images: requests for images.
        texts: requests for texts.
        store: where results go.
        unit_rows: items of a unit; of regions, inputs of the model's own size.
        regions: requests for regions.
        own_size: height and width of the model's input, which regions need.
    """
    nothing = pa.array([], ID_TYPE)
    wanted_images = missing_items(images, nothing).sort_by(
        [("root", "ascending"), ("shard", "ascending"), ("offset", "ascending"), ("row", "ascending")]
    )
    wanted_texts = missing_items(texts, nothing)
    new_images = missing_items(wanted_images, store.stored_ids(IMAGE))
    new_texts = missing_items(wanted_texts, store.stored_ids(TEXT))
    wanted_regions = missing_items(regions, nothing)
    units = make_units(TEXT, new_texts, unit_rows) + make_units(IMAGE, new_images, unit_rows, group="root")
    if wanted_regions.num_rows:
        units += region_units(missing_items(wanted_regions, store.stored_ids(REGION)), unit_rows, own_size)
    return Work(wanted_images, wanted_texts, wanted_regions, units)
