"""COCO's annotation files with boxes: instances, proposals, panoptic segments, and captions of regions.

A box is COCO's [x, y, width, height] in pixels. Formats: https://cocodataset.org/#format-data; for what
FineCLIP adds, its released code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgray.data.masks import Mask
from fgray.errors import DataError
from fgray.storage import Storage


@dataclass(frozen=True)
class Category:
    """A class of a COCO file; of a file that does not say so, every class is a thing."""

    id: int
    name: str
    is_thing: bool = True


@dataclass(frozen=True)
class CocoImage:
    """A picture of a COCO file; width and height are 0 where the file does not give them."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoBox:
    """One annotation.

    Attributes:
        id: of the annotation; of a panoptic segment, the number that its pixels carry.
        box: x, y, width, height.
        category: id of its class; None in a file of proposals.
        crowd: it stands for a group of objects.
        segmentation: polygons or run lengths as they stand in the file (`fgray.data.masks.coco_mask`); None in a panoptic file.
    """

    id: int
    box: tuple[float, float, float, float]
    category: int | None
    crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class CocoBoxes:
    """What a file says.

    Attributes:
        images: in the file's order.
        boxes: image id -> its boxes, in the file's order.
        categories: by ascending id, which is COCO's class order.
        segments: image id -> file name of the PNG with the segments; empty unless the file is panoptic.
    """

    images: list[CocoImage]
    boxes: Mapping[int, list[CocoBox]]
    categories: list[Category]
    segments: Mapping[int, str]


def read_boxes(storage: Storage, path: str) -> CocoBoxes:
    """Read a file of instances or proposals (FineCLIP's ``coco_proposals.json``).

    An image without ``file_name`` has the last two parts of its ``coco_url`` as its name, as FineCLIP reads it.

    Raises:
        DataError: it is not such a file, or a box belongs to no image of it.
    """
    where = storage.address(path)
    with _expecting(where, "a file with 'images' [{id, file_name}] and 'annotations' [{image_id, bbox, …}]"):
        content = json.loads(storage.read_bytes(path))
        images = [_image(entry) for entry in content["images"]]
        boxes: dict[int, list[CocoBox]] = {image.id: [] for image in images}
        for number, entry in enumerate(content["annotations"]):
            image = int(entry["image_id"])
            if image not in boxes:
                raise DataError(f"annotation {number} belongs to image {image}, which is not listed", where=where, fix="correct the file")
            boxes[image].append(_box(entry, int(entry.get("id", number))))
        return CocoBoxes(images, boxes, _categories(content), {})


def read_panoptic(storage: Storage, path: str) -> CocoBoxes:
    """Read a file of panoptic segments, like ``panoptic_val2017.json``.

    Raises:
        DataError: it is not such a file, or a segment belongs to no image or category of it.
    """
    where = storage.address(path)
    with _expecting(where, "a panoptic file: 'annotations' [{image_id, file_name, segments_info [{id, category_id, bbox}]}]"):
        content = json.loads(storage.read_bytes(path))
        images = [_image(entry) for entry in content["images"]]
        categories = _categories(content)
        known = {category.id for category in categories}
        boxes: dict[int, list[CocoBox]] = {image.id: [] for image in images}
        segments = {}
        for entry in content["annotations"]:
            image = int(entry["image_id"])
            if image not in boxes:
                raise DataError(f"segments of image {image}, which is not listed", where=where, fix="correct the file")
            boxes[image] = [_box(segment, int(segment["id"])) for segment in entry["segments_info"]]
            segments[image] = str(entry["file_name"])
            for box in boxes[image]:
                if box.category not in known:
                    raise DataError(f"segment {box.id} of image {image} has no category of the file", where=where, fix="correct the file")
        return CocoBoxes(images, boxes, categories, segments)


def segment_map(png: bytes, where: str) -> npt.NDArray[np.int64]:
    """Return the number of the segment that each pixel belongs to, [H, W]: red + 256 green + 256² blue; 0 is none.

    Raises:
        DataError: the bytes are no PNG in colour.
    """
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            colours = np.asarray(image)
    except Exception as error:  # Pillow's decoders raise nearly every built-in error on damaged files
        raise DataError(f"not a PNG ({type(error).__name__})", where=where, fix="unpack the panoptic archive again") from error
    if colours.ndim != 3 or colours.shape[2] < 3:
        raise DataError("a PNG without colours holds no panoptic segments", where=where, fix="give COCO's panoptic PNGs")
    numbers: npt.NDArray[np.int64] = colours[..., :3].astype(np.int64) @ np.array([1, 256, 65536])
    return numbers


def tight_box(mask: Mask) -> tuple[float, float, float, float] | None:
    """Return x, y, width and height from the first to the last pixel of a mask, or None of an empty one.

    As in CLIPSelf the width is the difference of the two columns, so the last column and row are left out.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] - columns[0]), float(rows[-1] - rows[0])


def caption_key(file_name: str, box: Iterable[float]) -> str:
    """Return the key under which FineCLIP's ``coco_captions.json`` keeps a box's caption: numbers are cut towards zero.

    Two boxes may share a key, and then they share the caption.
    """
    return file_name + "".join(f"_{int(value)}" for value in box) + ".jpg"


def read_region_captions(storage: Storage, path: str) -> dict[str, str]:
    """Read FineCLIP's region captions: `caption_key` -> caption.

    Raises:
        DataError: it is not such a file.
    """
    where = storage.address(path)
    with _expecting(where, "an object of {FILE_X_Y_W_H.jpg: caption}"):
        content = json.loads(storage.read_bytes(path))
        return {str(key): _text(value) for key, value in content.items()}


@contextmanager
def _expecting(where: str, form: str) -> Iterator[None]:
    """Turn whatever a malformed file raises into one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"not the expected JSON ({type(error).__name__}: {error})", where=where, fix=f"give {form}") from error


def _image(entry: Mapping[str, Any]) -> CocoImage:
    name = str(entry["file_name"]) if "file_name" in entry else "/".join(str(entry["coco_url"]).split("/")[-2:])
    return CocoImage(int(entry["id"]), name, int(entry.get("width") or 0), int(entry.get("height") or 0))


def _box(entry: Mapping[str, Any], number: int) -> CocoBox:
    x, y, w, h = (float(value) for value in entry["bbox"])
    category = entry.get("category_id")
    crowd = bool(entry.get("iscrowd", 0))
    return CocoBox(number, (x, y, w, h), None if category is None else int(category), crowd, entry.get("segmentation"))


def _categories(content: Mapping[str, Any]) -> list[Category]:
    found = [Category(int(entry["id"]), _text(entry["name"]), bool(entry.get("isthing", 1))) for entry in content.get("categories", [])]
    if len({category.id for category in found}) != len(found):
        raise ValueError("two categories have the same id")
    return sorted(found, key=lambda category: category.id)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, not {value!r}")
    return value
