"""Pixels equal those of open_clip's evaluation transform and of Hugging Face's Pillow processors, bit for bit."""

from __future__ import annotations

import pickle

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from fgray.errors import ModelError
from fgray.models.preprocess import Preprocess

# Landscape, portrait, square, already right, tiny, thin, and surpluses that are odd in both parities of their half.
SIZES = [(640, 427), (333, 500), (300, 300), (224, 224), (31, 17), (224, 241), (227, 224), (229, 224), (700, 61)]


def picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """ToTensor and Normalize as torchvision documents them, in float32."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    return ((scaled - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_open_clip(size: tuple[int, int], resize: str, interpolation: str) -> None:
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    theirs = image_transform_v2(
        PreprocessCfg(size=224, mean=mean, std=std, resize_mode=resize, interpolation=interpolation), is_train=False
    )
    ours = Preprocess((224, 224), mean, std, resize=resize, interpolation=interpolation)
    pixels = ours(picture(size))
    assert pixels.dtype == np.uint8 and pixels.shape == (224, 224, 3)
    assert np.array_equal(theirs(picture(size)).numpy(), normalised(pixels, mean, std))


@pytest.mark.parametrize("size", SIZES)
def test_equals_hugging_face_clip(size: tuple[int, int]) -> None:
    processor = CLIPImageProcessorPil()
    theirs = processor(picture(size), return_tensors="np").pixel_values[0]
    ours = Preprocess((224, 224), processor.image_mean, processor.image_std, short_side=224, crop_rounding="floor")
    np.testing.assert_allclose(theirs, normalised(ours(picture(size)), processor.image_mean, processor.image_std), atol=1e-6)


def test_hugging_face_clip_with_a_larger_short_side() -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 200}, resample=2)
    theirs = processor(picture((640, 427)), return_tensors="np").pixel_values[0]
    ours = Preprocess(
        (224, 200), processor.image_mean, processor.image_std, interpolation="bilinear", short_side=256, crop_rounding="floor"
    )
    np.testing.assert_allclose(theirs, normalised(ours(picture((640, 427))), processor.image_mean, processor.image_std), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_equals_hugging_face_siglip(size: tuple[int, int]) -> None:
    processor = SiglipImageProcessorPil()
    theirs = processor(picture(size), return_tensors="np").pixel_values[0]
    ours = Preprocess((224, 224), processor.image_mean, processor.image_std, resize="squash")
    np.testing.assert_allclose(theirs, normalised(ours(picture(size)), processor.image_mean, processor.image_std), atol=1e-6)


def test_the_two_crops_differ_where_documented() -> None:
    # 227 - 224 = 3 surplus columns: half-even rounding of 1.5 gives 2, floor gives 1.
    image = picture((227, 224))
    assert np.array_equal(Preprocess((224, 224))(image), np.asarray(image)[:, 2:226])
    assert np.array_equal(Preprocess((224, 224), crop_rounding="floor")(image), np.asarray(image)[:, 1:225])


def test_other_modes_become_rgb_and_results_are_writable() -> None:
    grey = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    pixels = Preprocess((32, 32))(grey)
    assert pixels.shape == (32, 32, 3) and torch.from_numpy(pixels).dtype == torch.uint8
    assert np.array_equal(pixels[..., 0], pixels[..., 1])


def test_is_picklable_and_described_by_plain_values() -> None:
    ours = Preprocess((224, 224), resize="squash")
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert ours.describe()["size"] == [224, 224] and ours.describe() != Preprocess((224, 224)).describe()


@pytest.mark.parametrize("options", [{"interpolation": "lanczos"}, {"resize": "longest"}, {"short_side": 200}])
def test_refuses_what_it_cannot_reproduce(options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="not supported|no crop"):
        Preprocess((224, 224), **options)
