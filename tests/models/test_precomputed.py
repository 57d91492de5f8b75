"""Precomputed scores and embeddings: looked up exactly, refused in one line where they are doubled, missing or broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fgray.config.schema import PrecomputedModel
from fgray.errors import DataError, StorageError
from fgray.models.precomputed import open_precomputed

ROWS = {
    "image": ["a", "a", "a", "b", "b", "b"],
    "text": ["one dog", "two\ndogs", 'a "cat", black', "one dog", "two\ndogs", 'a "cat", black'],
    "score": [0.5, -1.25, 0.125, 3.0, 0.1, 1e-9],
}


def write_parquet(file: Path, rows: dict[str, list]) -> None:
    pq.write_table(pa.table(rows), file)


def write_csv(file: Path, rows: dict[str, list]) -> None:
    pyarrow.csv.write_csv(pa.table(rows), file)


def scores(file: Path) -> PrecomputedModel:
    return PrecomputedModel(kind="precomputed", name="elsewhere", scores=str(file))


def refusal(config: PrecomputedModel) -> str:
    with pytest.raises(DataError) as caught:
        open_precomputed(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "write"), [("parquet", write_parquet), ("csv", write_csv)])
class TestPairs:
    def test_every_pair_both_ways(self, tmp_path: Path, suffix: str, write: Callable) -> None:
        shuffled = np.random.default_rng(0).permutation(6)
        write(tmp_path / f"s.{suffix}", {key: [values[place] for place in shuffled] for key, values in ROWS.items()})
        found = open_precomputed(scores(tmp_path / f"s.{suffix}"))
        table = {(image, text): score for image, text, score in zip(*ROWS.values(), strict=True)}
        texts = ROWS["text"][:3]
        for image in "ab":
            assert found.score("image", image, "text", texts).tolist() == [table[image, text] for text in texts]
        for text in texts:
            assert found.score("text", text, "image", ["b", "a", "b"]).tolist() == [table[image, text] for image in "bab"]
        assert found.embed("image", ["a"]) is None and found.name == "elsewhere"

    def test_a_missing_pair_is_named(self, tmp_path: Path, suffix: str, write: Callable) -> None:
        write(tmp_path / f"s.{suffix}", {key: values[:5] for key, values in ROWS.items()})
        found = open_precomputed(scores(tmp_path / f"s.{suffix}"))
        with pytest.raises(DataError, match='no score for .image b, text a "cat", black'):
            found.score("image", "b", "text", ["one dog", 'a "cat", black'])
        with pytest.raises(DataError, match="image unknown, text one dog"):
            found.score("text", "one dog", "image", ["a", "unknown"])

    def test_duplicates(self, tmp_path: Path, suffix: str, write: Callable) -> None:
        write(tmp_path / f"s.{suffix}", {key: [*values, values[1]] for key, values in ROWS.items()})
        assert "duplicate pair (image a, text two dogs) in row 6" in refusal(scores(tmp_path / f"s.{suffix}"))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
    def test_scores_that_are_no_numbers(self, tmp_path: Path, suffix: str, write: Callable, value: float | None) -> None:
        write(tmp_path / f"s.{suffix}", {**ROWS, "score": [*ROWS["score"][:4], value, 1.0]})
        message = refusal(scores(tmp_path / f"s.{suffix}"))
        assert "not finite" in message and "row 4" in message

    def test_wrong_columns(self, tmp_path: Path, suffix: str, write: Callable) -> None:
        write(tmp_path / f"s.{suffix}", {"image": ["a"], "caption": ["x"], "score": [1.0]})
        assert "column 'text' is missing" in refusal(scores(tmp_path / f"s.{suffix}"))
        write(tmp_path / f"s.{suffix}", {"image": ["a"], "text": ["x"], "score": ["high"]})
        assert "score" in refusal(scores(tmp_path / f"s.{suffix}")) or "high" in refusal(scores(tmp_path / f"s.{suffix}"))

    def test_empty(self, tmp_path: Path, suffix: str, write: Callable) -> None:
        schema = pa.schema([("image", pa.string()), ("text", pa.string()), ("score", pa.float64())])
        write(tmp_path / f"s.{suffix}", {name: pa.array([], schema.field(name).type) for name in schema.names})
        assert "there are no scores" in refusal(scores(tmp_path / f"s.{suffix}"))


def test_other_formats_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}")
    assert "'.json' files cannot be read" in refusal(scores(tmp_path / "s.json"))
    (tmp_path / "s.parquet").write_bytes(b"not parquet at all")
    assert "cannot be read" in refusal(scores(tmp_path / "s.parquet"))
    with pytest.raises(StorageError, match=r"nowhere\.csv"):
        open_precomputed(scores(tmp_path / "nowhere.csv"))


# --- embeddings --------------------------------------------------------------------------------------------------------


def save(folder: Path, images: np.ndarray, texts: np.ndarray, image_keys: list[str] | None = None) -> PrecomputedModel:
    for name, values, keys in (("i", images, image_keys or ["a", "b", "c"]), ("t", texts, ["one", "two", "three", "four"])):
        np.save(folder / f"{name}.npy", values, allow_pickle=True)
        (folder / f"{name}.keys.txt").write_text("\n".join(keys) + "\n")
    return PrecomputedModel(kind="precomputed", name="x", image_embeddings=str(folder / "i.npy"), text_embeddings=str(folder / "t.npy"))


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.normal(size=(3, 5)).astype(np.float32), draw.normal(size=(4, 5)).astype(np.float32)


def test_embeddings_score_by_cosine(tmp_path: Path, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    images, texts = vectors
    found = open_precomputed(save(tmp_path, images, texts))
    for row, key in enumerate("abc"):
        cosines = [
            float(images[row] @ texts[place]) / float(np.linalg.norm(images[row]) * np.linalg.norm(texts[place])) for place in (3, 0)
        ]
        np.testing.assert_allclose(found.score("image", key, "text", ["four", "one"]), cosines, atol=1e-6)
    embedded = found.embed("text", ["two", "two"])
    assert embedded is not None and embedded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)
    with pytest.raises(DataError, match="no image embedding of 'd'"):
        found.embed("image", ["a", "d"])


def test_keys_may_end_their_lines_as_windows_does(tmp_path: Path, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    config = save(tmp_path, *vectors)
    (tmp_path / "i.keys.txt").write_bytes(b"a\r\nb\r\nc\r\n")
    assert open_precomputed(config).score("image", "c", "text", ["one"]).shape == (1,)


def test_keys_in_another_encoding_are_refused(tmp_path: Path, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    config = save(tmp_path, *vectors)
    (tmp_path / "i.keys.txt").write_bytes("café\nb\nc\n".encode("latin-1"))
    assert "not UTF-8" in refusal(config)


def test_half_precision_is_read(tmp_path: Path, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    found = open_precomputed(save(tmp_path, vectors[0].astype(np.float16), vectors[1]))
    assert found.score("image", "a", "text", ["one"]).dtype == np.float64


def test_fingerprint_is_of_content(tmp_path: Path, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    prints = []
    for name, images in (("a", vectors[0]), ("b", vectors[0]), ("c", vectors[0] + 1)):
        (tmp_path / name).mkdir()
        prints.append(open_precomputed(save(tmp_path / name, images, vectors[1])).fingerprint())
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images[0], r"embeddings are float32 \[5\]"),
        (lambda images: images.astype(int), "embeddings are int64"),
        (lambda images: images[:2], "3 keys for 2 rows"),
        (lambda images: images[:, :4], "4 columns and text embeddings 5"),
        (lambda images: images * np.array([[1], [0], [1]]), "zero or not finite, the first is 'b'"),
        (lambda images: images + np.array([[0], [0], [np.nan]]), "zero or not finite, the first is 'c'"),
        (lambda images: np.array([{"a": 1}], dtype=object), "object arrays are refused"),
    ],
)
def test_broken_embeddings(tmp_path: Path, vectors: tuple[np.ndarray, np.ndarray], change: Callable, message: str) -> None:
    config = save(tmp_path, change(vectors[0]), vectors[1])
    with pytest.raises(DataError, match=message):
        open_precomputed(config)


def test_duplicate_keys(tmp_path: Path, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    assert "duplicate key 'a'" in refusal(save(tmp_path, *vectors, image_keys=["a", "b", "a"]))
