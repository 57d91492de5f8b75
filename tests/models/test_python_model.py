"""Own encoders: a plain class is enough; what it returns is checked; its fingerprint is its content."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import fgray.models
from fgray.config.schema import PythonModel
from fgray.errors import ConfigError, ModelError
from fgray.models import Preprocess, TextEmbeddings, open_model


class Colours:
    """Images by their mean colour, texts by their length."""

    image_size = 8
    notes = ("a toy",)

    def __init__(self, device: str, scale: float = 1.0, table: str | None = None) -> None:
        self.scale = scale
        self.calls: list[int] = []

    def embed_images(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels).to(torch.float64).mean(dim=(1, 2)) * self.scale + 1

    def embed_texts(self, texts: list[str]) -> TextEmbeddings:
        self.calls.append(len(texts))
        return TextEmbeddings(np.array([[len(text), 1, 0] for text in texts]), np.array([len(text) > 5 for text in texts]))


class NoTexts:
    image_size = 8

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        return pixels


class NoSize:
    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    embed_texts = embed_images


class WrongShapes(Colours):
    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.mean()

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 3), np.nan)


class Named(Colours):
    preprocess = Preprocess((6, 4), resize="squash")

    @classmethod
    def fingerprint(cls, **options: object) -> str:
        return f"version 3 {sorted(options)}"


def section(name: str, **options: object) -> PythonModel:
    return PythonModel(kind="python", path=f"{__name__}:{name}", options=options)


def test_rows_are_unit_length_fp32_and_texts_come_in_equal_calls() -> None:
    source = pickle.loads(pickle.dumps(open_model(section("Colours", scale=2.0))))
    encoder = source.load("cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    images = encoder.embed_images(pixels)
    expected = pixels.astype(np.float64).mean(axis=(1, 2)) * 2 + 1
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)
    texts = encoder.embed_texts(["abc"] + ["abcdefg"] * 39)
    assert texts.values.shape == (40, 3) and texts.truncated.tolist() == [False] + [True] * 39
    np.testing.assert_allclose(texts.values[0], np.array([3, 1, 0]) / np.sqrt(10), rtol=1e-6)
    assert len(set(encoder._encoder.calls)) == 1  # a fixed forward shape is what makes rows independent of N
    assert source.card.image_size == (8, 8) and source.card.notes == ("a toy",)


def test_a_plugin_name_serves_like_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fgray.models.ENCODERS._loaded, "colours", Colours)
    source = open_model(PythonModel(kind="python", path="colours"))
    assert source.fingerprint() == open_model(section("Colours")).fingerprint()
    with pytest.raises(ConfigError, match="no encoder is called 'colour'.*did you mean 'colours'"):
        open_model(PythonModel(kind="python", path="colour"))


def test_default_fingerprint_hashes_source_options_and_the_content_of_files(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    prints = {name: open_model(section("Colours", table=str(tmp_path / name))).fingerprint() for name in "abc"}
    assert prints["a"] == prints["b"] != prints["c"]
    assert open_model(section("Colours", scale=3.0)).fingerprint() != open_model(section("Colours")).fingerprint()


def test_changing_the_source_changes_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    body = "class E:\n    image_size = 8\n    def embed_images(self, x): return x\n    def embed_texts(self, x): return x\n"
    found = set()
    for name, extra in (("own_a", ""), ("own_b", "# another rule\n")):
        (tmp_path / f"{name}.py").write_text(body + extra)
        found.add(open_model(PythonModel(kind="python", path=f"{name}:E")).fingerprint())
    assert len(found) == 2


def test_own_fingerprint_and_preprocess_are_used() -> None:
    source = open_model(section("Named"))
    assert source.card.image_size == (6, 4) and source.card.preprocess["resize"] == "squash"
    assert source.fingerprint() == open_model(section("Named")).fingerprint()
    assert source.fingerprint() != open_model(section("Named", scale=2.0)).fingerprint()


@pytest.mark.parametrize(
    ("name", "message"), [("NoTexts", "no method 'embed_texts'"), ("NoSize", "image_size = 224"), ("Coulours", "did you mean 'Colours'")]
)
def test_incomplete_classes_are_refused(name: str, message: str) -> None:
    with pytest.raises((ModelError, ConfigError), match=message):
        open_model(section(name))


def test_wrong_results_and_options_are_one_line() -> None:
    encoder = open_model(section("WrongShapes")).load("cpu")
    with pytest.raises(ModelError, match=r"embed_images returned \[\] for 2 inputs"):
        encoder.embed_images(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ModelError, match="embed_texts returned rows that are zero or not finite"):
        encoder.embed_texts(["a"])
    with pytest.raises(ModelError, match="cannot be built.*speed"):
        open_model(section("Colours", speed=3)).load("cpu")


def test_a_missing_module_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="cannot import 'no_such_module'.*PYTHONPATH"):
        open_model(PythonModel(kind="python", path="no_such_module:E"))


def test_the_readme_example_has_under_40_lines() -> None:
    assert len((Path(__file__).parent / "own_encoder.py").read_text().splitlines()) < 40
