"""Regions on a GPU give what they give on the CPU, to the bounds stated for whole pictures in test_gpu.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgray.models.base import PlacedRegions
from tests.gpu.test_gpu import BF16_COSINE, DEVICE, pixels, source

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

PICTURES, REGIONS = 4, 30


def regions(cells: int) -> PlacedRegions:
    draw = np.random.default_rng(0)
    corners = np.sort(draw.uniform(0, 1, (REGIONS, 2, 2)), axis=1).reshape(REGIONS, 4)
    masks = draw.random((REGIONS, cells, cells)) < 0.3
    return PlacedRegions(
        draw.integers(0, PICTURES, REGIONS), corners.astype(np.float32), np.arange(REGIONS) % 3 == 0, masks.astype(np.uint8)
    )


def embedded(arch: str, device: str, dtype: str = "fp32") -> np.ndarray:
    model = source(arch, dtype)
    return model.load(device).embed_regions(pixels(rows=PICTURES), regions(224 // model.cell_size())).astype(np.float64)


@pytest.mark.parametrize("arch", ["EVA02-B-16", "ViT-B-32"])
def test_boxes_and_masks_agree_with_the_cpu(arch: str) -> None:
    here, there, rounded = embedded(arch, "cpu"), embedded(arch, DEVICE), embedded(arch, DEVICE, "bf16")
    np.testing.assert_allclose((here * there).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(there @ there.T, here @ here.T, atol=1e-5)
    assert (here * rounded).sum(axis=1).min() > BF16_COSINE
