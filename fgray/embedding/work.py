"""What a run asks of a model, less what the store has, cut into units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from fgray.embedding.regions import region_units
from fgray.embedding.requests import IMAGE, IMAGE_SCHEMA, REGION, TEXT, TEXT_SCHEMA
from fgray.engine.planning import subtract
from fgray.engine.rows import Rows
from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE, Unit, make_units
from fgray.runs import ITEM_SCHEMA

Requests: TypeAlias = pa.Table | Iterable[pa.Table]
"""Requests in one table, or in slices: of many millions only the slices are then in memory."""

_NO_REGIONS = pa.table({"item_id": pa.array([], ID_TYPE)})
_PLACE = ("root", "shard", "offset", "row")


@dataclass(frozen=True)
class Work:
    """What a run asks of a model, and what of it the store lacks.

    Attributes:
        images, texts, regions: the ids of distinct requested items, column ``item_id``.
        units: the missing ones, cut into units.
        missing: how many items those are.
    """

    images: Rows
    texts: Rows
    regions: Rows
    units: Sequence[Unit]
    missing: int

    @property
    def requested(self) -> int:
        """Return the number of distinct items asked for."""
        return sum(rows.num_rows for _, rows in self.kinds())

    def kinds(self) -> list[tuple[str, Rows]]:
        """Return the distinct items by request kind."""
        return [(IMAGE, self.images), (TEXT, self.texts), (REGION, self.regions)]

    def item_slices(self) -> Iterator[pa.Table]:
        """Yield rows of ``ITEM_SCHEMA``: what the run reads from the store."""
        for kind, rows in self.kinds():
            for table in rows.slices():
                yield pa.table([pa.repeat(kind, table.num_rows), table["item_id"]], schema=ITEM_SCHEMA)

    def items(self) -> pa.Table:
        """Return the rows of `item_slices` in one table."""
        return pa.concat_tables([ITEM_SCHEMA.empty_table(), *self.item_slices()])


def plan_work(
    images: Requests,
    texts: Requests,
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
    wanted_images, new_images = subtract(_slices(images), IMAGE_SCHEMA, store, IMAGE, _PLACE)
    wanted_texts, new_texts = subtract(_slices(texts), TEXT_SCHEMA, store, TEXT)
    wanted_regions, new_regions = subtract(_slices(regions), regions.schema, store, REGION)
    units: Sequence[Unit] = make_units(TEXT, new_texts, unit_rows) + make_units(IMAGE, new_images, unit_rows, group="root")
    if new_regions.num_rows:
        units = [*units, *region_units(new_regions.slice(0, new_regions.num_rows), unit_rows, own_size)]
    missing = new_images.num_rows + new_texts.num_rows + new_regions.num_rows
    return Work(wanted_images, wanted_texts, wanted_regions, units, missing)


def _slices(requests: Requests) -> Iterable[pa.Table]:
    return [requests] if isinstance(requests, pa.Table) else requests
