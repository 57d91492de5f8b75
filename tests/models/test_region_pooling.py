"""RoIAlign and mask pooling equal loops over boxes, points and cells in float64."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.models.region_pooling import mask_pool, roi_pool
from tests.models.dense_reference import roi, under_mask, unit


def unit_tokens(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, height, width, 8)))


@settings(max_examples=60)
@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_roi_pool_equals_a_loop(data: st.DataObject, height: int, width: int) -> None:
    corner = st.floats(0, 0.99)
    tokens = unit_tokens(2, height, width)
    boxes = []
    for _ in range(3):
        x0, y0 = data.draw(corner), data.draw(corner)
        boxes.append((x0, y0, data.draw(st.floats(x0 + 0.005, 1)), data.draw(st.floats(y0 + 0.005, 1))))
    image_of = [1, 0, 1]
    found = roi_pool(torch.from_numpy(tokens), torch.tensor(boxes, dtype=torch.float64), torch.tensor(image_of))
    expected = [
        roi(tokens[n], (x0 * width, y0 * height, x1 * width, y1 * height)) for n, (x0, y0, x1, y1) in zip(image_of, boxes, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_a_whole_picture_is_the_mean_of_its_cells() -> None:
    tokens = unit_tokens(1, 5, 7)
    found = roi_pool(torch.from_numpy(tokens), torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64), torch.tensor([0]))
    np.testing.assert_allclose(found.numpy()[0], unit(tokens[0].mean(axis=(0, 1))), atol=1e-12)


def test_a_box_moved_by_a_pixel_in_224_gives_another_embedding() -> None:
    tokens = torch.from_numpy(unit_tokens(1, 14, 14)).float()
    box = torch.tensor([[40.0, 60.0, 90.0, 130.0]])
    here, there = (roi_pool(tokens, (box + shift) / 224, torch.tensor([0])) for shift in (0, 1))
    assert (here - there).abs().max() > 1e-3


def test_mask_pool_equals_a_loop_and_an_empty_mask_gives_zeros() -> None:
    tokens = unit_tokens(3, 4, 6)
    masks = np.random.default_rng(1).random((5, 4, 6)) < 0.3
    masks[3] = False
    image_of = [2, 0, 0, 1, 1]
    found = mask_pool(torch.from_numpy(tokens), torch.from_numpy(masks.astype(np.float64)), torch.tensor(image_of)).numpy()
    for row, image in enumerate(image_of):
        expected = under_mask(tokens[image], masks[row]) if masks[row].any() else np.zeros(8)
        np.testing.assert_allclose(found[row], expected, atol=1e-12)


def test_no_regions_give_no_rows() -> None:
    tokens = torch.from_numpy(unit_tokens(2, 3, 3))
    none = torch.zeros(0, dtype=torch.int64)
    assert roi_pool(tokens, torch.zeros(0, 4), none).shape == (0, 8)
    assert mask_pool(tokens, torch.zeros(0, 3, 3), none).shape == (0, 8)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    tokens = torch.from_numpy(unit_tokens(2, 14, 14)).float()
    boxes = torch.rand(7, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values.reshape(7, 4)
    masks = torch.rand(7, 14, 14, generator=torch.Generator().manual_seed(1)) < 0.5
    image_of = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    for pool, given_ in ((roi_pool, boxes), (mask_pool, masks.float())):
        together = pool(tokens, given_, image_of)
        alone = torch.cat([pool(tokens, given_[row : row + 1], image_of[row : row + 1]) for row in range(7)])
        assert torch.equal(together, alone)


def test_gradients_of_both_poolings_are_those_of_finite_differences() -> None:
    tokens = torch.from_numpy(unit_tokens(2, 3, 4)).requires_grad_()
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 0.4, 1.0]], dtype=torch.float64)
    masks = torch.tensor(np.random.default_rng(0).random((2, 3, 4)) < 0.6, dtype=torch.float64)
    image_of = torch.tensor([0, 1])
    assert torch.autograd.gradcheck(lambda tokens: roi_pool(tokens, boxes, image_of), tokens)
    assert torch.autograd.gradcheck(lambda tokens: mask_pool(tokens, masks, image_of), tokens)
