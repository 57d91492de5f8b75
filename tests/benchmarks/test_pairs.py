"""Pairs out of right answers and out of files, against hand-made cases."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgray.benchmarks.pairs import load_pairs
from fgray.config.schema import BenchmarkConfig
from fgray.errors import ConfigError, DataError


def photo(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    root = tmp_path / "captioned"
    rows = [("b.jpg", "test", ["two", "one"]), ("a.jpg", "test", ["one", "one"]), ("c.jpg", "train", ["three"])]
    for name, _, _ in rows:
        photo(root / name, {"a": "red", "b": "blue", "c": "green"}[name[0]])
    lines = [json.dumps({"image": name, "split": split, "captions": captions}) for name, split, captions in rows]
    (root / "captions.jsonl").write_text("\n".join(lines))
    return root


def rows(pairs) -> list[tuple]:
    return [tuple(row.values()) for row in pairs.table.to_pylist()]


def test_captions_of_a_split(captioned: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(name="retrieval", dataset="captions", split="test")
    pairs = load_pairs(config, str(captioned), str(tmp_path / "cache"))
    assert rows(pairs) == [("a", "one", None), ("b", "one", None), ("b", "two", None)]
    assert (pairs.images, pairs.texts) == (["a", "b"], ["one", "two"])
    assert rows(load_pairs(config, str(captioned), str(tmp_path / "cache"), limit=1)) == [("a", "one", None)]


def test_classes_bring_labels(tmp_path: Path) -> None:
    for name in ("cat/1", "cat/2", "dog/1"):
        photo(tmp_path / "data" / f"{name}.png", "red" if name == "cat/1" else "blue" if name == "cat/2" else "green")
    config = BenchmarkConfig(name="zero_shot", dataset="folder", templates=["a {c}"])
    try:
        pairs = load_pairs(config, str(tmp_path / "data"), str(tmp_path / "cache"))
    except ConfigError as error:
        pytest.fail(str(error))
    assert rows(pairs) == [("cat/1", "a cat", "cat"), ("cat/2", "a cat", "cat"), ("dog/1", "a dog", "dog")]


def test_controls_of_the_demo_are_no_pairs(tmp_path: Path) -> None:
    pairs = load_pairs(BenchmarkConfig(name="spec_style", cases=1, subsets=["absolute_size"]), None, str(tmp_path))
    texts = set(pairs.texts)
    assert len(texts) == 3 and not any(text.startswith("a photo") for text in texts)


def write(path: Path, **columns) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_pairs_from_a_file(captioned: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.parquet", image=["c", "a", None, "a"], text=["x", "y", "z", "y"])
    config = BenchmarkConfig(name="file", root=path, images=str(captioned))
    pairs = load_pairs(config, None, str(tmp_path / "cache"))
    assert sorted(rows(pairs), key=str) == sorted([("a", "y", None), ("c", "x", None), (None, "z", None)], key=str)
    assert (pairs.images, pairs.texts) == (["a", "c"], ["x", "y", "z"])
    assert len(pairs.index.read(pairs.index.locate(["a"]))[0]) == (captioned / "a.jpg").stat().st_size


BAD = [
    ({"image": ["a"]}, "column 'text' is missing"),
    ({"image": [1], "text": [["x"]]}, "no readable pairs"),
    ({"image": [None], "text": [None]}, "there are no pairs"),
    ({"image": ["q"], "text": ["x"]}, "image 'q' of the pairs is not in the image folder"),
]


@pytest.mark.parametrize(("columns", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_files_are_refused(columns, message: str, captioned: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(name="file", root=write(tmp_path / "pairs.parquet", **columns), images=str(captioned))
    with pytest.raises(DataError, match=message):
        load_pairs(config, None, str(tmp_path / "cache"))


def test_a_file_without_address_or_with_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need its address|need"):
        load_pairs(BenchmarkConfig(name="file"), None, str(tmp_path))
    with pytest.raises(ConfigError, match="no option 'imagse'"):
        load_pairs(BenchmarkConfig(name="file", root="x.parquet", imagse="y"), None, str(tmp_path))
