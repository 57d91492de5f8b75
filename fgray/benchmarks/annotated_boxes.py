"""Reads the boxes of box classification: COCO's panoptic segments, or instances."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fgray.benchmarks.files import join_path, read_bytes
from fgray.data.coco_boxes import CocoBoxes, CocoImage, segment_map, tight_box
from fgray.data.masks import Mask, coco_mask, encode_mask
from fgray.errors import DataError
from fgray.storage import Storage

LEAST_AREA, MOST_AREA = 8.0**2, 1024.0**2
MOST_SEGMENTS = 100
_THREADS = 4


@dataclass(frozen=True)
class AnnotatedBox:
    """One box that is classified.

    Attributes:
        file_name: of the picture.
        id: of the annotation.
        box: x, y, width, height in pixels.
        category: id of its class.
        is_thing: whether the class is a thing.
        mask: as `fgray.data.masks` stores it; None where masks are not asked for.
    """

    file_name: str
    id: int
    box: tuple[float, float, float, float]
    category: int
    is_thing: bool
    mask: bytes | None


def annotated_boxes(found: CocoBoxes, storage: Storage, segments: str, masks: bool, where: str) -> Iterator[AnnotatedBox]:
    """Yield the boxes that CLIPSelf's and FineCLIP's evaluation scores, in the file's order.

    Of each picture the first hundred annotations; a thing with its annotated box, stuff with the tight box of its segment; those with
    less than 8² or more than 1024² square pixels are left out, crowds are not.

    Args:
        found: a panoptic file, or one of instances.
        storage: the benchmark's root.
        segments: folder of the panoptic PNGs under it.
        masks: whether masks are needed.
        where: the annotation file, for messages.

    Raises:
        DataError: a PNG is missing, damaged or of another size, a mask is malformed, or a box has no class.
    """
    things = {category.id: category.is_thing for category in found.categories}
    with ThreadPoolExecutor(_THREADS) as pool:  # decoding a PNG releases the interpreter lock
        yield from (
            one
            for boxes in pool.map(lambda image: list(_of_image(image, found, things, storage, segments, masks, where)), found.images)
            for one in boxes
        )


def _of_image(
    image: CocoImage, found: CocoBoxes, things: dict[int, bool], storage: Storage, segments: str, masks: bool, where: str
) -> Iterator[AnnotatedBox]:
    boxes = found.boxes[image.id][:MOST_SEGMENTS]
    if any(box.category not in things for box in boxes):
        raise DataError(f"a box of image {image.id} has no class", where=where, fix="give a file of instances or panoptic segments")
    panoptic = bool(found.segments)
    stuff = any(not things[box.category or 0] for box in boxes)
    numbers = None
    if panoptic and boxes and (masks or stuff):
        if image.id not in found.segments:
            raise DataError(f"image {image.id} has no segments", where=where, fix="download the file again")
        path = join_path(segments, found.segments[image.id], where)
        png = f"{storage.uri}/{path}"
        numbers = segment_map(read_bytes(storage, path, f"panoptic PNG {path}"), png)
        if image.width and numbers.shape != (image.height, image.width):
            what = f"a PNG of {numbers.shape[1]} x {numbers.shape[0]} px for a picture of {image.width} x {image.height}"
            raise DataError(what, where=png, fix="unpack the panoptic archive again")

    for box in boxes:
        category = box.category or 0
        of_stuff = panoptic and not things[category]
        mask: Mask | None = None
        if numbers is not None and (masks or of_stuff):
            mask = numbers == box.id
        elif masks:
            mask = coco_mask(box.segmentation, image.height, image.width, f"{where} annotation {box.id}")
        extent = tight_box(mask) if of_stuff and mask is not None else box.box
        if extent is None or min(extent[2:]) <= 0 or not LEAST_AREA <= extent[2] * extent[3] <= MOST_AREA:
            continue
        stored = encode_mask(mask) if masks and mask is not None else None
        yield AnnotatedBox(image.file_name, box.id, extent, category, things[category], stored)
