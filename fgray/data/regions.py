"""Regions: boxes and masks in pictures, each row with all that can change its embedding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from fgray.errors import DataError

Mode = Literal["roi", "crop", "mask"]
Resize = Literal["squash", "letterbox"]
MODES: tuple[Mode, ...] = ("roi", "crop", "mask")
RESIZES: tuple[Resize, ...] = ("squash", "letterbox")

REGION_SCHEMA = pa.schema(
    [
        pa.field("region_id", pa.string(), nullable=False),  # unique in the set
        pa.field("key", pa.string(), nullable=False),  # image key in the image index
        pa.field("mode", pa.string(), nullable=False),  # roi: dense features under the box; crop: the picture's part; mask: under the mask
        # The box in pixels of the decoded picture, COCO's xywh: it covers [x, x + w) x [y, y + h), where pixel (0, 0) is [0, 1) x [0, 1).
        pa.field("x", pa.float64(), nullable=False),
        pa.field("y", pa.float64(), nullable=False),
        pa.field("w", pa.float64(), nullable=False),
        pa.field("h", pa.float64(), nullable=False),
        pa.field("mask", pa.binary()),  # of the full picture, as `fgray.data.masks` stores it (mode mask, else null)
        pa.field("enlarge", pa.float64(), nullable=False),  # crop: factor about the centre before clipping; 1: none
        pa.field("size", pa.int32(), nullable=False),  # side in px of the square model input; 0: the model's own
        pa.field("resize", pa.string(), nullable=False),  # how the picture (roi, mask) or the crop becomes size x size
    ]
)
"""Rows of a region table. See `fgray.data.geometry` for what the resize modes do."""


def region_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Build a checked region table; ``mask`` is null, ``enlarge`` 1, ``size`` 0 and ``resize`` squash where a row does not say.

    Raises:
        DataError: what `check_regions` finds.
    """
    defaults = {"mask": None, "enlarge": 1.0, "size": 0, "resize": "squash"}
    table = pa.Table.from_pylist([defaults | dict(row) for row in rows], schema=REGION_SCHEMA)
    check_regions(table)
    return table


def check_regions(table: pa.Table) -> None:
    """Refuse an inconsistent region table.

    Raises:
        DataError: duplicate ids, an unknown mode or resize mode, a box without area or that is not finite, a mask missing or too many,
            a factor below 1, or a negative size.
    """
    ids = table["region_id"]
    if pc.count_distinct(ids).as_py() != len(ids):
        counts = ids.value_counts()
        repeated = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))[0]["values"].as_py()
        raise DataError(f"duplicate region id '{repeated}'", fix="region ids must be unique within a set")
    for name, known in (("mode", MODES), ("resize", RESIZES)):
        for value in pc.unique(table[name]).to_pylist():
            if value not in known:
                raise DataError(f"unknown {name} '{value}' of a region", fix=f"use one of {', '.join(known)}")
    finite = pc.and_(pc.is_finite(table["x"]), pc.is_finite(table["y"]))
    size = pc.and_(pc.is_finite(table["w"]), pc.is_finite(table["h"]))
    positive = pc.and_(pc.greater(table["w"], 0), pc.greater(table["h"], 0))
    _refuse(table, pc.and_(pc.and_(finite, size), positive), "a box without a finite area", "drop the region")
    masked = pc.equal(table["mode"], "mask")
    _refuse(table, pc.equal(pc.is_valid(table["mask"]), masked), "a mask stands with mode mask and with no other", "correct the region")
    _refuse(table, pc.greater_equal(table["enlarge"], 1.0), "a box can only be enlarged", "give a factor of 1 or more")
    _refuse(table, pc.greater_equal(table["size"], 0), "a negative input size", "give pixels, or 0 for the model's own size")


def _refuse(table: pa.Table, good: pa.ChunkedArray, what: str, fix: str) -> None:
    bad = table.filter(pc.invert(good))
    if bad.num_rows:
        raise DataError(what, where=f"region {bad['region_id'][0].as_py()}", fix=fix)
