"""What a region's picture shows: the outline where the box lies, the rest dimmed where the model does not see it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fgray.data.decode import ImageError
from fgray.data.masks import encode_mask
from fgray.report.region_pictures import draw_region

GREY = 200
ROW = {"region_id": "r", "key": "k", "mask": None, "enlarge": 1.0, "size": 0, "resize": "squash", "x": 40, "y": 20, "w": 30, "h": 10}


def drawn(side: int = 120, **row: object) -> np.ndarray:
    return np.asarray(draw_region(Image.new("RGB", (120, 80), (GREY,) * 3), {**ROW, **row}, side)).astype(int)


def outlined(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column and row of the orange line."""
    orange = (pixels[..., 0] > 200) & (pixels[..., 2] < 60)
    rows, columns = np.flatnonzero(orange.any(axis=1)), np.flatnonzero(orange.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def test_a_box_is_outlined_where_it_lies_and_nothing_is_dimmed() -> None:
    pixels = drawn(mode="roi")
    assert outlined(pixels) == (39, 19, 70, 30)  # a pixel around columns 40 to 69 and rows 20 to 29
    assert pixels[0, 0].tolist() == [GREY] * 3 and pixels[25, 55].tolist() == [GREY] * 3
    half = drawn(side=60, mode="roi")
    assert half.shape == (40, 60, 3) and outlined(half) == (19, 9, 35, 15)


def test_what_a_cut_out_leaves_out_is_dimmed() -> None:
    pixels = drawn(mode="crop", enlarge=2.0)
    assert outlined(pixels) == (39, 19, 70, 30)
    bright = pixels[..., 2] == GREY
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    assert (columns[0], rows[0], columns[-1], rows[-1]) == (25, 15, 84, 34)
    assert pixels[0, 0].tolist() == [80] * 3


def test_what_a_mask_does_not_cover_is_dimmed() -> None:
    mask = np.zeros((80, 120), bool)
    mask[10:30, 50:60] = True
    pixels = drawn(mode="mask", mask=encode_mask(mask))
    assert np.array_equal(pixels[..., 0] == GREY, mask) and set(np.unique(pixels)) == {80, GREY}


def test_a_box_outside_of_the_picture_is_said() -> None:
    with pytest.raises(ImageError, match="outside of the picture"):
        drawn(mode="roi", x=500)
