"""Boxes and masks follow pictures: a misplacement by a pixel fails here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, Resize

from fgray.data.decode import ImageError
from fgray.data.geometry import (
    Placement,
    clip_boxes,
    corners_of,
    crop_picture,
    crop_window,
    mask_cells,
    place,
    place_window,
    resize_picture,
)
from fgray.data.masks import coco_mask

MODES = ("squash", "letterbox")


def painted(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A black picture with a white box x0, y0, x1, y1."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


def centre(pixels: np.ndarray) -> tuple[float, float]:
    """The brightness-weighted mean position, in continuous coordinates."""
    weights = pixels[..., 0].astype(float)
    rows, columns = weights.sum(axis=1), weights.sum(axis=0)
    return (
        float(columns @ (np.arange(len(columns)) + 0.5) / weights.sum()),
        float(rows @ (np.arange(len(rows)) + 0.5) / weights.sum()),
    )


def extent(pixels: np.ndarray) -> tuple[float, float]:
    """Width and height of the painted box: total brightness over that of a full line through it."""
    weights = pixels[..., 0] / 255.0
    return float(weights.sum(axis=1).max()), float(weights.sum(axis=0).max())


@st.composite
def pictures(draw) -> tuple[int, int, tuple[int, int, int, int]]:
    """A size and a box that keeps clear of the border, where resampling is symmetric."""
    width, height = draw(st.integers(80, 300)), draw(st.integers(80, 300))
    x0, y0 = draw(st.integers(12, width - 52)), draw(st.integers(12, height - 52))
    return width, height, (x0, y0, draw(st.integers(x0 + 20, width - 12)), draw(st.integers(y0 + 20, height - 12)))


def assert_covers(pixels: np.ndarray, box: np.ndarray, tolerance: float) -> None:
    x, y = centre(pixels)
    assert abs(x - (box[0] + box[2]) / 2) < tolerance and abs(y - (box[1] + box[3]) / 2) < tolerance
    width, height = extent(pixels)
    assert abs(width - (box[2] - box[0])) < 2 * tolerance and abs(height - (box[3] - box[1])) < 2 * tolerance


@pytest.mark.parametrize("mode", MODES)
@given(picture=pictures(), size=st.integers(64, 320))
def test_a_box_lies_where_its_pixels_lie(mode, picture, size) -> None:
    width, height, box = picture
    pixels, placement = resize_picture(painted(width, height, box), size, mode)
    assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
    moved = placement.boxes(np.array([box], float))[0]
    assert_covers(pixels, moved, 0.25)
    # The check itself sees a shift by one pixel.
    with pytest.raises(AssertionError):
        assert_covers(np.roll(pixels, 1, axis=1), moved, 0.25)
    np.testing.assert_allclose(placement.fractions(np.array([box], float))[0] * size, moved, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_boxes_of_whole_scale_factors_are_exact(mode) -> None:
    placement = place(200, 100, 400, mode)
    moved = placement.boxes(np.array([[10, 20, 30, 40], [0, 0, 200, 100]], float))
    tall = 4 if mode == "squash" else 2
    assert moved.tolist() == [[20, 20 * tall, 60, 40 * tall], [0, 0, 400, 100 * tall]]


@given(picture=pictures(), size=st.integers(64, 200), data=st.data())
def test_a_box_follows_a_window_and_a_mirror(picture, size, data) -> None:
    width, height, box = picture
    left, top = data.draw(st.integers(0, box[0] - 10)), data.draw(st.integers(0, box[1] - 10))
    right, bottom = data.draw(st.integers(box[2] + 10, width)), data.draw(st.integers(box[3] + 10, height))
    cut = painted(width, height, box).crop((left, top, right, bottom))
    rows = size // 2 + 40
    pixels = np.asarray(cut.resize((size, rows), Image.Resampling.BICUBIC))
    placement = place_window((left, top, right - left, bottom - top), (rows, size))
    assert_covers(pixels, placement.boxes(np.array([box], float))[0], 0.25)
    assert_covers(pixels[:, ::-1], placement.mirrored().boxes(np.array([box], float))[0], 0.25)
    twice, corners = placement.mirrored().mirrored(), np.array([box], float)
    np.testing.assert_allclose(twice.boxes(corners), placement.boxes(corners), atol=1e-9)


@given(st.integers(20, 400), st.integers(20, 400), st.integers(16, 128))
def test_pixels_are_those_of_the_published_transforms(width, height, size) -> None:
    image = Image.fromarray(np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8))
    assert np.array_equal(resize_picture(image, size, "squash")[0], np.asarray(Resize((size, size))(image)))
    # CLIPSelf's images: the longer side to `size`, the rest filled below and to the right.
    scale = size / max(width, height)
    rows, columns = round(height * scale), round(width * scale)
    longest = tv.pad(tv.resize(image, [rows, columns], InterpolationMode.BICUBIC), [0, 0, size - columns, size - rows], 0)
    assert np.array_equal(resize_picture(image, size, "letterbox")[0], np.asarray(longest))
    # CLIPSelf's crops: the rest is filled on both sides, the odd pixel to the right and below.
    box = (1.5, 2.0, width / 2, height / 2)
    crop = image.crop((box[0], box[1], box[0] + box[2], box[1] + box[3]))
    scale = size / max(crop.size)
    rows, columns = round(crop.height * scale), round(crop.width * scale)
    left, top = (size - columns) // 2, (size - rows) // 2
    padding = [left, top, size - columns - left, size - rows - top]
    both = tv.pad(tv.resize(crop, [rows, columns], InterpolationMode.BICUBIC), padding, 0)
    assert np.array_equal(crop_picture(image, box, 1.0, size, "letterbox"), np.asarray(both))
    assert np.array_equal(crop_picture(image, box, 1.0, size, "squash"), np.asarray(Resize((size, size))(crop)))


def test_the_window_of_a_crop_grows_about_the_centre_and_stops_at_the_border() -> None:
    assert crop_window((40, 60, 20, 8), 1.5, 200, 100) == (35, 58, 65, 70)
    assert crop_window((0, 90, 40, 20), 1.5, 200, 100) == (0, 85, 50, 100)
    assert crop_window((40, 60, 20, 8), 1.0, 200, 100) == (40, 60, 60, 68)
    assert crop_window((199.7, 50.2, 0.2, 0.2), 1.0, 200, 100) == (199, 50, 200, 51)
    for outside in ((200, 0, 5, 5), (-6, 0, 5, 5), (0, 100, 5, 5)):
        with pytest.raises(ImageError, match="outside of the picture of 200 x 100 px"):
            crop_window(outside, 1.0, 200, 100)


@given(st.tuples(st.floats(-20, 219), st.floats(-20, 119), st.floats(0.1, 250), st.floats(0.1, 250)), st.floats(1, 3))
def test_a_window_lies_in_the_picture_and_within_a_pixel_of_the_box(box, enlarge) -> None:
    x, y, w, h = box
    grown = (x + w / 2 - enlarge * w / 2, y + h / 2 - enlarge * h / 2, x + w / 2 + enlarge * w / 2, y + h / 2 + enlarge * h / 2)
    exact = [max(grown[0], 0), max(grown[1], 0), min(grown[2], 200), min(grown[3], 100)]
    if exact[0] >= exact[2] or exact[1] >= exact[3]:
        with pytest.raises(ImageError):
            crop_window(box, enlarge, 200, 100)
        return
    left, top, right, bottom = crop_window(box, enlarge, 200, 100)
    assert 0 <= left < right <= 200 and 0 <= top < bottom <= 100
    assert np.abs(np.subtract((left, top, right, bottom), exact)).max() <= 1
    if exact[2] - exact[0] > 2 and exact[3] - exact[1] > 2:
        assert np.abs(np.subtract((left, top, right, bottom), exact)).max() <= 0.5


def test_cut_boxes_say_how_much_is_left() -> None:
    corners = corners_of(np.array([[-10, 0, 20, 10], [90, 40, 20, 20], [100, 0, 5, 5], [5, 5, 10, 10]], float))
    assert corners[1].tolist() == [90, 40, 110, 60]
    cut, share = clip_boxes(corners, 100, 50)
    assert cut[:2].tolist() == [[0, 0, 10, 10], [90, 40, 100, 50]]
    np.testing.assert_allclose(share, [0.5, 0.25, 0, 1])


@pytest.mark.parametrize("mode", MODES)
def test_real_masks_cover_the_cells_that_torch_finds(data_root: Path, mode: str) -> None:
    content = json.loads((data_root / "coco128" / "annotations" / "instances_val2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    covered = 0
    for annotation in content["annotations"][::7]:
        height, width = sizes[annotation["image_id"]]
        mask = coco_mask(annotation["segmentation"], height, width, "here")
        for cells in (14, 37):
            scale = cells / max(height, width)
            shape = (cells, cells) if mode == "squash" else (round(height * scale), round(width * scale))
            low = F.interpolate(torch.from_numpy(mask.copy())[None, None].double(), shape, mode="bicubic", align_corners=False)[0, 0] > 0
            expected = F.pad(low, (0, cells - shape[1], 0, cells - shape[0])).numpy()
            found = mask_cells(mask, cells, mode)
            assert found.dtype == np.float32 and np.array_equal(found > 0, expected)
            covered += int(expected.any())
    assert covered > 100


def test_a_placement_is_the_affine_map_it_says() -> None:
    placement = Placement((2.0, 3.0), (-4.0, 5.0), (100, 200))
    assert placement.boxes(np.array([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[-2.0, 11.0, 2.0, 17.0]]
    assert placement.mirrored().boxes(np.array([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[198.0, 11.0, 202.0, 17.0]]
