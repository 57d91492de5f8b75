"""Boxes with texts, as training on regions reads them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from fgray.data.coco_boxes import CocoBoxes, caption_key, read_boxes, read_region_captions
from fgray.data.index import image_key
from fgray.errors import DataError
from fgray.storage import Storage, open_storage

BOX_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # its key
        pa.field("x", pa.float64(), nullable=False),  # the box in pixels of the decoded picture, COCO's xywh
        pa.field("y", pa.float64(), nullable=False),
        pa.field("w", pa.float64(), nullable=False),
        pa.field("h", pa.float64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""One row per box; the boxes of an image stand together, in the order of their file."""


def read_captioned_boxes(boxes: str, captions: str | None, template: str, least_area: float) -> pa.Table:
    """Read a COCO file of boxes, and their texts.

    Args:
        boxes: path or URI of a JSON file of instances or proposals.
        captions: path or URI of FineCLIP's region captions (JSON); None: the text is the class's name in the template.
        template: ``{}`` stands for the name.
        least_area: in square pixels; a smaller box needs no caption.

    Raises:
        DataError: a file is not what it should be, or a box has no text.
        NotFound: there is no such file.
    """
    found = read_boxes(*_opened(boxes))
    if captions is None:
        return boxes_with_class_names(found, template, boxes)
    return boxes_with_captions(found, read_region_captions(*_opened(captions)), least_area, captions)


def read_plain_boxes(boxes: str) -> pa.Table:
    """Read a COCO file of boxes, with or without classes; the texts are empty.

    Raises:
        DataError: the file is not what it should be, or holds no box.
        NotFound: there is no such file.
    """
    found = read_boxes(*_opened(boxes))
    rows = [_row(image.file_name, box.box, "") for image in found.images for box in found.boxes[image.id]]
    if not rows:
        raise DataError("there are no boxes", where=boxes, fix="give a file of instances or proposals")
    return pa.Table.from_pylist(rows, schema=BOX_SCHEMA)


def _opened(uri: str) -> tuple[Storage, str]:
    folder, _, name = uri.rpartition("/")
    return open_storage(folder or ("/" if uri.startswith("/") else ".")), name


def boxes_with_captions(found: CocoBoxes, captions: Mapping[str, str], least_area: float, where: str) -> pa.Table:
    """Return boxes with the captions of FineCLIP's ``coco_captions.json``.

    FineCLIP's code looks a caption up before it drops boxes that are too small; here such a box needs none and is left out.

    Args:
        found: the boxes.
        captions: `fgray.data.coco_boxes.caption_key` -> caption.
        least_area: in square pixels; a smaller box without a caption is left out.
        where: of the captions, for the message.

    Raises:
        DataError: a box has no caption, or none is left.
    """
    rows, missing = [], []
    for image in found.images:
        for box in found.boxes[image.id]:
            key = caption_key(image.file_name, box.box)
            if captions.get(key):
                rows.append(_row(image.file_name, box.box, captions[key]))
            elif box.box[2] * box.box[3] >= least_area:
                missing.append(key)
    if missing:
        what = f"{len(missing)} of {len(missing) + len(rows)} boxes have no caption, the first is {missing[0]}"
        raise DataError(what, where=where, fix="add the captions, or remove the boxes")
    return _table(rows, where)


def boxes_with_class_names(found: CocoBoxes, template: str, where: str) -> pa.Table:
    """Return boxes with their class in words as the text.

    Args:
        found: the boxes of a file of instances.
        template: the text, with ``{}`` where the name of the class belongs.
        where: of the file, for the message.

    Raises:
        DataError: the template has no place for the name, or no box has a class.
    """
    if "{}" not in template:
        raise DataError(f"template '{template}' has no place for the class name", where=where, fix="write {} where it belongs")
    names = {category.id: category.name for category in found.categories}
    rows = [
        _row(image.file_name, box.box, template.replace("{}", names[box.category]))
        for image in found.images
        for box in found.boxes[image.id]
        if box.category is not None and box.category in names
    ]
    return _table(rows, where)


def _row(file_name: str, box: tuple[float, float, float, float], text: str) -> dict[str, object]:
    return {"image": image_key(file_name), **dict(zip("xywh", box, strict=True)), "text": text}


def _table(rows: list[dict[str, object]], where: str) -> pa.Table:
    if not rows:
        raise DataError("no box has a text", where=where, fix="check that boxes and captions belong together")
    return pa.Table.from_pylist(rows, schema=BOX_SCHEMA)
