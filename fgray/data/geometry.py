"""Where boxes and masks of a picture lie in a model's input.

Coordinates are continuous: pixel i covers [i, i + 1), so a resize by the factor s takes x to s x, as image libraries resample.

The two resize modes are those of FineCLIP's and CLIPSelf's published code:

- ``squash`` (FineCLIP): width and height become `size`, each with its own factor; bilinear with antialiasing.
- ``letterbox`` (CLIPSelf): the longer side becomes `size`, bicubic with antialiasing, and black fills the rest: below and to the right of
  a picture, on both sides of a crop. The shorter side is rounded to whole pixels; boxes follow the rounded size, where CLIPSelf's own
  code multiplies them by the unrounded factor and so is off by up to half a pixel at the far border.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgray.data.decode import ImageError
from fgray.data.masks import Mask
from fgray.data.regions import Resize

Boxes = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Placement:
    """Where the pixels of a picture lie in a model's input: along each axis ``out = scale * in + offset``.

    Attributes:
        scale, offset: for x and for y; a mirrored axis has a negative scale.
        size: height and width of the input.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]

    def boxes(self, corners: Boxes) -> Boxes:
        """Return boxes [M, 4] (x0, y0, x1, y1) of the picture in pixels of the input; they may reach beyond it."""
        moved = corners * np.tile(self.scale, 2) + np.tile(self.offset, 2)
        return np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], axis=1)

    def fractions(self, corners: Boxes) -> npt.NDArray[np.float32]:
        """Return boxes [M, 4] of the picture in fractions of the input's width and height, as RoI pooling takes them."""
        height, width = self.size
        fractions: npt.NDArray[np.float32] = (self.boxes(corners) / (width, height, width, height)).astype(np.float32)
        return fractions

    def mirrored(self) -> Placement:
        """Return the placement after the input was mirrored left to right."""
        return replace(self, scale=(-self.scale[0], self.scale[1]), offset=(self.size[1] - self.offset[0], self.offset[1]))


def corners_of(boxes: Boxes) -> Boxes:
    """Return COCO's x, y, width, height [M, 4] as x0, y0, x1, y1."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def clip_boxes(corners: Boxes, width: float, height: float) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Cut boxes [M, 4] (x0, y0, x1, y1) at the borders of a picture or input.

    Returns:
        The cut boxes, and the share [M] of each box's area that is left, 0 where nothing is.
    """
    bounds = np.array([width, height, width, height], np.float64)
    cut = np.clip(corners, 0, bounds)
    areas = [np.prod(np.maximum(part[:, 2:] - part[:, :2], 0), axis=1) for part in (corners, cut)]
    return cut, np.divide(areas[1], areas[0], out=np.zeros(len(corners)), where=areas[0] > 0)


def place(width: int, height: int, size: int, resize: Resize) -> Placement:
    """Return where a picture of `width` x `height` lies in a square input of side `size`."""
    columns, rows = _content(width, height, size, resize)
    return Placement((columns / width, rows / height), (0.0, 0.0), (size, size))


def place_window(window: tuple[int, int, int, int], size: tuple[int, int]) -> Placement:
    """Return where a picture lies after its window (left, top, width, height) was cut out and resized to `size` (height, width)."""
    left, top, width, height = window
    scale = size[1] / width, size[0] / height
    return Placement(scale, (-left * scale[0], -top * scale[1]), size)


def resize_picture(image: Image.Image, size: int, resize: Resize) -> tuple[Pixels, Placement]:
    """Return an RGB picture as a square input, uint8 [size, size, 3], and where its pixels lie there."""
    return _resized(image, size, resize, centred=False), place(image.width, image.height, size, resize)


def crop_window(box: tuple[float, float, float, float], enlarge: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the window (left, top, right, bottom) of a crop in whole pixels.

    The box (x, y, w, h) grows by the factor `enlarge` about its centre, is cut at the picture's borders, and then rounded to the
    nearest pixel, halves to even, as Pillow's ``crop`` rounds. It keeps at least one pixel each way.

    Raises:
        ImageError: the box lies outside of the picture.
    """
    x, y, w, h = box
    edges = []
    for start, length, whole in ((x, w, width), (y, h, height)):
        centre, half = start + length / 2, enlarge * length / 2
        low, high = max(centre - half, 0.0), min(centre + half, float(whole))
        if low >= high:
            raise ImageError(f"the box ({x:g}, {y:g}, {w:g}, {h:g}) lies outside of the picture of {width} x {height} px")
        first, last = round(low), round(high)
        if first == last:  # less than a pixel: the one that holds its centre
            first = min(int((low + high) / 2), whole - 1)
            last = first + 1
        edges.append((first, last))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def crop_picture(image: Image.Image, box: tuple[float, float, float, float], enlarge: float, size: int, resize: Resize) -> Pixels:
    """Return the part of an RGB picture in and around a box as a square input, uint8 [size, size, 3].

    Raises:
        ImageError: the box lies outside of the picture.
    """
    return _resized(image.crop(crop_window(box, enlarge, image.width, image.height)), size, resize, centred=True)


def mask_cells(mask: Mask, cells: int, resize: Resize) -> npt.NDArray[np.float32]:
    """Return which cells of a square feature map a picture's mask covers, 1 or 0, [cells, cells].

    As CLIPSelf does it: the mask is resampled bicubically without antialiasing to the grid, placed like the
    picture, and a cell counts where the result is positive. A mask that is small against a cell may cover none.

    Args:
        mask: bool [H, W] of the full picture.
        cells: side of the feature map.
        resize: how the picture became the model's input.
    """
    height, width = mask.shape
    columns, rows = _content(width, height, cells, resize)
    covered = _cubic(height, rows) @ mask.astype(np.float64) @ _cubic(width, columns).T > 0
    found = np.zeros((cells, cells), np.float32)
    found[:rows, :columns] = covered
    return found


def _content(width: int, height: int, size: int, resize: Resize) -> tuple[int, int]:
    """Return width and height of the resized picture within the input."""
    if resize == "squash":
        return size, size
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: Image.Image, size: int, resize: Resize, centred: bool) -> Pixels:
    if resize == "squash":
        return np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    columns, rows = _content(image.width, image.height, size, resize)
    left, top = ((size - columns) // 2, (size - rows) // 2) if centred else (0, 0)
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[top : top + rows, left : left + columns] = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC))
    return pixels


def _cubic(source: int, target: int) -> npt.NDArray[np.float64]:
    """Return the weights [target, source] of bicubic resampling of one axis with a = -0.75 (Keys 1981), borders repeated."""
    a = -0.75
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(centres).astype(np.int64)
    weights = np.zeros((target, source))
    for tap in range(-1, 3):
        x = np.abs(centres - (first + tap))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        np.add.at(weights, (np.arange(target), np.clip(first + tap, 0, source - 1)), np.where(x <= 1, near, far))
    return weights
