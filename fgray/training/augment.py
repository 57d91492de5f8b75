"""Random crops that depend on nothing but the numbers they are drawn with."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgray.models.preprocess import Preprocess

SCALE = (0.9, 1.0)  # share of the picture's area; CLIP's own training, as open_clip has it
RATIO = (3 / 4, 4 / 3)  # width through height
_TRIES = 10
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def random_resized_crop(image: Image.Image, preprocess: Preprocess, draw: int) -> npt.NDArray[np.uint8]:
    """Cut a random window and resize it to the model's input.

    The window is chosen as torchvision's RandomResizedCrop does (Szegedy et al. 2015): its area uniform in SCALE, the logarithm of its
    aspect ratio uniform in that of RATIO, its place uniform; after ten windows that do not fit, the largest central one within RATIO.

    Args:
        image: an RGB picture.
        preprocess: size and interpolation of the model's input.
        draw: 64 bits that decide the window.

    Returns:
        uint8 [H, W, 3].
    """
    rows, columns = preprocess.size
    left, top, width, height = random_window(image, draw)
    cut = image.crop((left, top, left + width, top + height))
    return np.asarray(cut.resize((columns, rows), _FILTERS[preprocess.interpolation]))


def random_window(image: Image.Image, draw: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of the window that `random_resized_crop` cuts."""
    return _window(image.width, image.height, np.random.Generator(np.random.PCG64(draw)))


def _window(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    low, high = (math.log(value) for value in RATIO)
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h
