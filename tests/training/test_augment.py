from __future__ import annotations

import numpy as np
from PIL import Image

from fgray.models.preprocess import Preprocess
from fgray.training.augment import random_resized_crop
from tests.training.small_sources import noise


def test_windows_are_distributed_as_described() -> None:
    """Against all tries of many windows at once: areas of 90-100 %, aspect ratios of 3/4 to 4/3 on a logarithmic scale."""
    from scipy.stats import ks_2samp

    from fgray.training.augment import _window

    width, height, count = 240, 200, 4000
    rng = np.random.default_rng(1)
    area = rng.uniform(0.9, 1.0, (count, 10)) * width * height
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), (count, 10)))
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w <= width) & (h <= height)
    first = fits.argmax(axis=1)
    w, h = (np.where(fits.any(axis=1), side[np.arange(count), first], whole) for side, whole in ((w, width), (h, height)))
    left, top = rng.random(count) * (width - w), rng.random(count) * (height - h)
    ours = np.array([_window(width, height, np.random.default_rng(i)) for i in range(count)], float)
    assert (ours[:, 0] + ours[:, 2] <= width).all() and (ours[:, 1] + ours[:, 3] <= height).all() and (ours >= 0).all()
    assert 0.6 < fits.any(axis=1).mean() < 1
    for one, other in zip(ours.T, (np.rint(left), np.rint(top), w, h), strict=True):
        assert ks_2samp(one, other).pvalue > 1e-3
    assert _window(300, 100, rng) == (83, 0, 133, 100) and _window(100, 300, rng) == (0, 83, 100, 133)  # none fits: the central one


def test_a_crop_is_a_window_of_the_picture() -> None:
    # Columns and rows tell their place, so the resized window says which part it is.
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(100)[None, :] * 2, np.arange(100)[:, None] * 2
    crops = np.stack([random_resized_crop(Image.fromarray(ramp), Preprocess((50, 50)), draw) for draw in range(20)]).astype(int)
    assert crops.shape == (20, 50, 50, 3)
    widths = crops[:, 25, 49, 0] - crops[:, 25, 0, 0]
    heights = crops[:, 49, 25, 1] - crops[:, 0, 25, 1]
    areas = (widths + 4) * (heights + 4) / 200**2  # half a resized pixel is lost at either edge
    assert (areas > 0.86).all() and (areas < 1.04).all() and len(set(widths.tolist())) > 5
    far = random_resized_crop(Image.fromarray(noise((20, 300, 3), 0)), Preprocess((8, 8)), 1)  # no window fits: the central one
    assert far.shape == (8, 8, 3)
