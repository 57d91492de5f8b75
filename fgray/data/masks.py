"""Binary masks as COCO's compressed run lengths, and the outlines that COCO's annotations draw, in plain numpy.

A stored mask is ``b"HEIGHT WIDTH COUNTS"``: the size of the full picture, then the counts in COCO's own compressed form (the
``counts`` of a ``{"size", "counts"}`` object), so that a mask of a 640 x 480 picture takes some hundred bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fgray.errors import DataError

Mask = npt.NDArray[np.bool_]


def encode_mask(mask: Mask) -> bytes:
    """Return the stored form of a bool mask [H, W]."""
    height, width = mask.shape
    flat = np.asarray(mask, bool).ravel(order="F")  # COCO counts column by column
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    counts = [0, *runs] if flat.size and flat[0] else runs  # the first run counts zeros
    return b"%d %d " % (height, width) + _compress(counts)


def decode_mask(stored: bytes) -> Mask:
    """Return the bool mask [H, W] that `encode_mask` stored.

    Raises:
        DataError: the bytes are no stored mask.
    """
    parts = stored.split(b" ", 2)
    try:
        height, width = int(parts[0]), int(parts[1])
        counts = _decompress(parts[2])
    except (IndexError, ValueError) as error:
        raise DataError("not a stored mask", fix="write it with fgray.data.masks.encode_mask") from error
    return _from_counts(counts, height, width)


def coco_mask(segmentation: Any, height: int, width: int, where: str) -> Mask:
    """Return the bool mask [H, W] of an annotation's ``segmentation``: polygons, or run lengths plain or compressed.

    Polygons are filled by Pillow, whose outline may differ from COCO's own rasteriser by a pixel.

    Raises:
        DataError: another form, a malformed one, or run lengths of another picture's size.
    """
    try:
        return _mask_of(segmentation, height, width, where)
    except (ValueError, TypeError) as error:
        raise DataError(f"a malformed segmentation ({error})", where=where, fix="correct the annotation") from error


def _mask_of(segmentation: Any, height: int, width: int, where: str) -> Mask:
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes):
        canvas = Image.new("1", (width, height))
        draw = ImageDraw.Draw(canvas)
        for polygon in segmentation:
            if not isinstance(polygon, Sequence) or len(polygon) < 6 or len(polygon) % 2:
                raise DataError("a polygon needs at least three points x, y", where=where, fix="correct the annotation")
            draw.polygon([float(value) for value in polygon], fill=1)
        return np.asarray(canvas, bool)
    if isinstance(segmentation, Mapping) and {"size", "counts"} <= segmentation.keys():
        if list(segmentation["size"]) != [height, width]:
            what = f"a mask of size {segmentation['size']} on a picture of [{height}, {width}]"
            raise DataError(what, where=where, fix="correct the annotation")
        counts = segmentation["counts"]
        runs = _decompress(counts.encode() if isinstance(counts, str) else counts) if isinstance(counts, str | bytes) else list(counts)
        return _from_counts(runs, height, width, where)
    raise DataError("a segmentation is neither polygons nor run lengths", where=where, fix="correct the annotation")


def _from_counts(counts: Sequence[int], height: int, width: int, where: str | None = None) -> Mask:
    if sum(counts) != height * width or any(count < 0 for count in counts):
        raise DataError(f"run lengths do not fill a mask of {height} x {width}", where=where, fix="correct the annotation")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, np.asarray(counts, np.int64)).reshape((height, width), order="F")


def _compress(counts: Sequence[int]) -> bytes:
    """COCO's text form: from the fourth count on the difference to the one two before, in groups of five bits, lowest first.

    The sixth bit says that more follows; the highest bit of the last group is the sign; 48 makes it printable.
    """
    out = bytearray()
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)
            out.append(48 + (group | 32 if more else group))
    return bytes(out)


def _decompress(text: bytes) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64:
            raise ValueError("not a compressed run length")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end too early")
    return counts
