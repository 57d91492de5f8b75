"""Draws what a region is on its picture: a box, a cut-out, a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fgray.data.geometry import crop_window
from fgray.data.masks import decode_mask

_LINE = (255, 176, 0)  # seen on light and dark pictures alike, with the dark edge around it
_EDGE = (20, 20, 20)
_DIMMED = 0.4


def draw_region(image: Image.Image, region: Mapping[str, Any], side: int) -> Image.Image:
    """Return a thumbnail of a picture with a region drawn on it, its longer side at most `side` pixels.

    A box is outlined. Of a cut-out the box is outlined and what lies outside of it dimmed; of a mask what it does not cover is dimmed.

    Args:
        image: the whole picture, RGB.
        region: a row of ``REGION_SCHEMA`` that lies in it.
        side: in px.

    Raises:
        ImageError: the region lies outside of the picture.
        DataError: its mask is damaged.
    """
    box = region["x"], region["y"], region["w"], region["h"]
    outline = crop_window(box, 1.0, image.width, image.height)
    seen = Image.new("L", image.size, 255)
    if region["mode"] == "mask":
        mask = decode_mask(region["mask"])
        seen = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    elif region["mode"] == "crop":
        window = crop_window(box, region["enlarge"], image.width, image.height)
        seen.paste(0, (0, 0, *image.size))
        seen.paste(255, window)
    dimmed = image.point(lambda value: round(value * _DIMMED))
    shown = Image.composite(image, dimmed, seen)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    if region["mode"] != "mask":
        _outline(shown, outline, shown.width / image.width, shown.height / image.height)
    return shown


def _outline(image: Image.Image, box: tuple[int, int, int, int], scale_x: float, scale_y: float) -> None:
    left, top = round(box[0] * scale_x), round(box[1] * scale_y)
    right, bottom = max(left + 2, round(box[2] * scale_x) - 1), max(top + 2, round(box[3] * scale_y) - 1)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=_EDGE)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_LINE)
    draw.rectangle((left, top, right, bottom), outline=_LINE)
