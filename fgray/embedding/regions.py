"""Embedding requests for regions of pictures: what is asked, how it is cut into units, how the two stages answer.

A unit holds regions of one input size and resize mode: either boxes and masks, which share one decode and one pass of dense features per
picture, or crops, which share the decode and are pictures of their own after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from fgray.data.decode import ImageError
from fgray.data.geometry import clip_boxes, corners_of, crop_picture, mask_cells, resize_picture
from fgray.data.index import INDEX_SCHEMA, ImageIndex
from fgray.data.masks import decode_mask
from fgray.embedding.requests import REGION
from fgray.engine.stages import Arrays, Chunk
from fgray.engine.units import ID_TYPE, Unit, item_id
from fgray.errors import ModelError
from fgray.models.base import DenseSource, Embeddings, ModelSource, Pixels, PlacedRegions, RegionEncoder

_ASKED = ("mode", "x", "y", "w", "h", "mask", "enlarge", "size", "resize")  # what a region's row says besides its picture
_GROUP = ("root", "crop", "size", "resize")  # equal within a unit

T = TypeVar("T")
Asked = Mapping[str, Any]  # a region's row
Decode = Callable[[bytes], Image.Image]
Shape = npt.NDArray[np.float32]  # a box, fractions [4], or a mask, cells [c, c]


def region_requests(index: ImageIndex, regions: pa.Table, fingerprint: str, max_pixels: int) -> pa.Table:
    """Return one row per region, in order: item_id, where its picture lies, and what its row asks.

    Args:
        index: where the pictures lie.
        regions: rows of ``REGION_SCHEMA``.
        fingerprint: of the model with its preprocessing.
        max_pixels: larger pictures are quarantined; part of the address, as for whole pictures.

    Raises:
        DataError: a picture is not in the index.
    """
    rows = index.locate(regions["key"].to_pylist())
    asked = zip(rows["sha256"].to_pylist(), *(regions[name].to_pylist() for name in _ASKED), strict=True)
    ids = [item_id(REGION, fingerprint, repr((max_pixels, *values)).encode()) for values in asked]
    for name in _ASKED:
        rows = rows.append_column(name, regions[name])
    root = pa.array([index.root_uri] * rows.num_rows, pa.string())
    return (
        rows.append_column("item_id", pa.array(ids, ID_TYPE))
        .append_column("root", root)
        .append_column("crop", pc.equal(rows["mode"], "crop"))
    )


def check_requests(regions: pa.Table, source: ModelSource) -> None:
    """Refuse regions that a model cannot embed.

    Raises:
        ModelError: the model has no dense features or no input of a region's size.
    """
    pairs = zip(regions["size"].to_pylist(), regions["mode"].to_pylist(), strict=True)
    asked = {(size or _own_side(source), mode == "crop") for size, mode in pairs}
    for size in sorted(size for size, crop in asked if crop):
        if size != _own_side(source):
            what = f"crops of {size} px for a model whose input has {_own_side(source)} px"
            raise ModelError(what, where=source.card.name, fix="give crops the size 0, the model's own")
    dense = sorted(size for size, crop in asked if not crop)
    if dense:
        if not isinstance(source, DenseSource):
            fix = "use an open_clip model, or crops of the regions (mode crop)"
            raise ModelError(f"models of kind {source.card.kind} give no dense features", where=source.card.name, fix=fix)
        cell = source.cell_size()
        for size in dense:
            if size % cell:
                what = f"an input of {size} px does not divide into cells of {cell} px"
                raise ModelError(what, where=source.card.name, fix="choose a multiple as the regions' size")


def _own_side(source: ModelSource) -> int:
    height, width = source.card.image_size
    if height != width:
        raise ModelError(f"regions need a square input, not {height} x {width}", where=source.card.name, fix="use a model with one")
    return width


def input_side(size: int, own: tuple[int, int]) -> int:
    """Return the side in px of the input that regions of a size need; 0 is the model's own."""
    return size or own[1]


def pictures_at_once(count: int, size: int, own: tuple[int, int]) -> int:
    """Return how many pictures of another size have about as many pixels as `count` of the model's own."""
    return max(1, count * own[0] * own[1] // input_side(size, own) ** 2)


def region_units(items: pa.Table, pictures: int, own: tuple[int, int]) -> list[Unit]:
    """Cut missing regions into units, in the order of their pictures' places.

    Args:
        items: of `region_requests`.
        pictures: inputs of the model's own size that a unit may have; of larger ones there are fewer.
        own: height and width of that size.
    """
    items = items.sort_by([(name, "ascending") for name in (*_GROUP, "shard", "offset", "row")])
    starts: list[int] = []
    inputs, unit, last = 0, None, None
    for at, (*group, picture) in enumerate(zip(*(items[name].to_pylist() for name in (*_GROUP, "sha256")), strict=True)):
        _, crop, size, _ = group
        more = crop or picture != last
        if group != unit or inputs + more > pictures_at_once(pictures, size, own):
            starts.append(at)
            inputs, unit, more = 0, group, True
        inputs, last = inputs + more, picture
    return [Unit(REGION, items.slice(start, stop - start)) for start, stop in pairwise([*starts, items.num_rows])]


def read_crops(chunk: Chunk, decode: Decode, pool: Executor, own: tuple[int, int]) -> Arrays:
    """Read and decode each distinct picture of a unit once and cut its crops; adds to ``chunk.errors``.

    Args:
        chunk: a unit of crops of `region_units`.
        decode: encoded picture -> picture; raises `ImageError`.
        pool: threads to decode with.
        own: height and width of the model's input.

    Returns:
        ``pixels``, uint8 [n, S, S, 3].
    """
    side = input_side(chunk.items["size"][0].as_py(), own)
    pixels = np.zeros((chunk.items.num_rows, side, side, 3), np.uint8)
    for rows, crops in _by_picture(chunk, pool, lambda data, asked: _cut_crops(data, asked, decode, side)):
        for row, crop in zip(rows, crops, strict=True):
            if isinstance(crop, str):
                chunk.errors[row] = f"decode: {crop}"
            else:
                pixels[row] = crop
    return {"pixels": pixels}


def read_placed(chunk: Chunk, decode: Decode, pool: Executor, own: tuple[int, int], cell: int) -> Arrays:
    """Read and decode each distinct picture of a unit once and place its boxes and masks; adds to ``chunk.errors``.

    Args:
        chunk: a unit of boxes and masks of `region_units`.
        decode: encoded picture -> picture; raises `ImageError`.
        pool: threads to decode with.
        own: height and width of the model's input.
        cell: side in px of a cell of the model's dense features.

    Returns:
        ``pixels``, uint8 [P, S, S, 3], of the P distinct pictures, and the fields of `PlacedRegions` of the n regions.
    """
    items, count = chunk.items, chunk.items.num_rows
    side = input_side(items["size"][0].as_py(), own)
    arrays: Arrays = {
        "picture_of": np.zeros(count, np.int64),
        "boxes": np.zeros((count, 4), np.float32),
        "masked": np.array([mode == "mask" for mode in items["mode"].to_pylist()]),
    }
    if arrays["masked"].any():
        arrays["cells"] = np.zeros((count, side // cell, side // cell), np.uint8)
    inputs: list[Pixels] = []
    for rows, (pixels, shapes) in _by_picture(chunk, pool, lambda data, asked: _place(data, asked, decode, side, side // cell)):
        for row, shape in zip(rows, shapes, strict=True):
            arrays["picture_of"][row] = len(inputs)
            if isinstance(shape, str):
                chunk.errors[row] = f"decode: {shape}"
            else:
                arrays["boxes" if shape.ndim == 1 else "cells"][row] = shape
        inputs.append(pixels)
    return {"pixels": np.stack(inputs), **arrays}


def _by_picture(chunk: Chunk, pool: Executor, work: Callable[[bytes, list[Asked]], T]) -> Iterator[tuple[list[int], T]]:
    """Yield the rows that lie in each distinct picture, and what `work` makes of its bytes and of what they ask."""
    items = chunk.items
    members: dict[bytes, list[int]] = {}
    for row, digest in enumerate(items["sha256"].to_pylist()):
        members.setdefault(digest, []).append(row)
    places = items.take([rows[0] for rows in members.values()]).select(INDEX_SCHEMA.names)
    encoded = ImageIndex(items["root"][0].as_py(), places).read(places)
    asked = items.select(_ASKED).to_pylist()
    yield from zip(members.values(), pool.map(work, encoded, [[asked[row] for row in rows] for rows in members.values()]), strict=True)


def _cut_crops(data: bytes, asked: Sequence[Asked], decode: Decode, side: int) -> list[Pixels | str]:
    """Return the crops of one picture, or why there is none."""
    try:
        image = decode(data)
    except ImageError as error:
        return [str(error)] * len(asked)
    crops: list[Pixels | str] = []
    for row in asked:
        try:
            crops.append(crop_picture(image, (row["x"], row["y"], row["w"], row["h"]), row["enlarge"], side, row["resize"]))
        except ImageError as error:
            crops.append(str(error))
    return crops


def _place(data: bytes, asked: Sequence[Asked], decode: Decode, side: int, cells: int) -> tuple[Pixels, list[Shape | str]]:
    """Return the input made of one picture, and its boxes (fractions [4]) and masks (cells [c, c]), or why there is none."""
    try:
        image = decode(data)
    except ImageError as error:
        return np.zeros((side, side, 3), np.uint8), [str(error)] * len(asked)
    pixels, placement = resize_picture(image, side, asked[0]["resize"])
    shapes: list[Shape | str] = []
    for row in asked:
        if row["mode"] == "mask":
            mask = decode_mask(row["mask"])
            size = f"a mask of {mask.shape[1]} x {mask.shape[0]} px for a picture of {image.width} x {image.height} px"
            shapes.append(mask_cells(mask, cells, row["resize"]) if mask.shape == (image.height, image.width) else size)
        else:
            box = row["x"], row["y"], row["w"], row["h"]
            corners, left = clip_boxes(corners_of(np.array([box])), image.width, image.height)
            outside = f"the box {box} lies outside of the picture of {image.width} x {image.height} px"
            shapes.append(placement.fractions(corners)[0] if left[0] else outside)
    return pixels, shapes


def embed_placed(arrays: Arrays, model: RegionEncoder, pictures: int) -> Embeddings:
    """Return fp32 [n, D] of the regions that `read_placed` placed, each picture through the model once.

    Args:
        arrays: what `read_placed` returned.
        model: the model.
        pictures: how many go through it at a time; short batches repeat their last one, so that no row sees the rest.
    """
    pixels, picture_of, cells = arrays["pixels"], arrays["picture_of"], arrays.get("cells")
    parts, places = [], []
    for start in range(0, len(pixels), pictures):
        rows = np.flatnonzero((picture_of >= start) & (picture_of < start + pictures))
        part = pixels[start : start + pictures]
        batch = np.concatenate([part, np.repeat(part[-1:], pictures - len(part), axis=0)])
        regions = PlacedRegions(
            picture_of[rows] - start, arrays["boxes"][rows], arrays["masked"][rows], None if cells is None else cells[rows]
        )
        parts.append(model.embed_regions(batch, regions))
        places.append(rows)
    values = np.concatenate(parts)
    found = np.empty_like(values)
    found[np.concatenate(places)] = values
    return found
