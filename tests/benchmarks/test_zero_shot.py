"""Zero-shot classification: hand-counted cases, prompt ensembles, every layout, bad input."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fgray.benchmarks.prompts import prompt_texts, prompts_hash
from fgray.benchmarks.zero_shot import ZeroShot
from fgray.errors import ConfigError, DataError
from tests.benchmarks.layouts import BLUE, COLOUR_MODEL, COLOURS, PURPLE, RED, noise, run, solid


def write_colours(root: Path) -> None:
    for name, colour in {"red/0": RED, "red/1": BLUE, "red/2": RED, "blue/0": BLUE, "blue/1": PURPLE}.items():
        solid(root / f"{name}.png", colour)


def test_hand_counted(tmp_path: Path) -> None:
    """Class order blue, red. Of red's three, one is blue (wrong). Of blue's two, one is purple: a tie, and blue comes first."""
    write_colours(tmp_path / "d")
    options = {"name": "zero_shot", "root": str(tmp_path / "d"), "dataset": "colours", "templates": ["{c}"]}
    result, samples = run(tmp_path / "run", [options], COLOUR_MODEL)
    assert set(result.metrics) == {"zero_shot/colours/acc1", "zero_shot/colours/mean_per_class_recall"}, "two classes have no acc5"
    entry = result.metrics["zero_shot/colours/acc1"]
    assert (entry["correct"], entry["count"], entry["chance"]) == (4, 5, 0.5)
    assert result.metrics["zero_shot/colours/mean_per_class_recall"]["value"] == pytest.approx((2 / 3 + 2 / 2) / 2)
    assert [row["query"] for row in samples.values()] == ["blue/0", "blue/1", "red/0", "red/1", "red/2"]
    assert [row["prediction"] for row in samples.values()] == [0, 0, 1, 0, 1]
    assert [row["category"] for row in samples.values()] == ["blue", "blue", "red", "red", "red"]


def test_acc5_from_five_classes_on(tmp_path: Path) -> None:
    for number, (name, colour) in enumerate(COLOURS.items()):
        solid(tmp_path / f"d/{number}_{name}/x.png", colour)
    names = list(COLOURS)
    loaded = ZeroShot(classes=names[:4] + names[4:]).load(str(tmp_path / "d"), str(tmp_path / "cache"))
    assert [metric.name for metric in loaded.metrics] == [f"zero_shot/custom/{name}" for name in ("acc1", "acc5", "mean_per_class_recall")]
    result, _ = run(
        tmp_path / "run", [{"name": "zero_shot", "root": str(tmp_path / "d"), "classes": names, "templates": ["{c}"]}], COLOUR_MODEL
    )
    # White's five nearest leave out one of the six; every colour is nearest to its own name.
    assert result.metrics["zero_shot/custom/acc1"]["correct"] == 6
    assert result.metrics["zero_shot/custom/acc5"]["chance"] == pytest.approx(5 / 6)


def test_templates() -> None:
    assert prompt_texts(["a b"], ["x {c}.", "{} y"]) == {"a b": ["x a b.", "a b y"]}
    assert prompt_texts(["{c}"], ["x {c}."]) == {"{c}": ["x {c}."]}, "a name is inserted once, as it stands"
    with pytest.raises(ConfigError, match="no place for the class name"):
        prompt_texts(["a"], ["a photo"])


def test_classes_in_file_names(data_root: Path, tmp_path: Path) -> None:
    """imagenet_samples: flat files INDEX_WNID_name.jpg over the 1,000 ImageNet class names."""
    options = {"classes": "../annotations/zeroshot/en_classnames.json#imagenet1k", "pattern": r"^(?P<index>\d+)_"}
    loaded = ZeroShot(dataset="imagenet_samples", **options).load(str(data_root / "imagenet_samples"), str(tmp_path))
    rows = loaded.cases.table.to_pylist()
    assert len(rows) == 200
    assert all(row["labels"] == [int(row["query"].partition("_")[0])] for row in rows)
    names = json.loads((data_root / "annotations/zeroshot/en_classnames.json").read_text())["imagenet1k"]
    assert loaded.cases.pools["imagenet_samples/classes"] == names and len(names) == 1000
    assert len(set(names)) == 998, "two pairs of classes share a name"
    assert rows[0]["category"] == "tench"


def test_class_folders(data_root: Path, tmp_path: Path) -> None:
    loaded = ZeroShot(dataset="cub30").load(str(data_root / "cub30/images"), str(tmp_path))
    assert loaded.cases.table.num_rows == 600
    assert len(loaded.cases.pools["cub30/classes"]) == 30
    assert loaded.cases.prototypes["American Goldfinch"] == ["a photo of a American Goldfinch."]
    assert not loaded.official


def test_a_name_group_and_a_mapping(tmp_path: Path) -> None:
    for name in ("x-cat-1", "y-dog-1", "z-cat-2"):
        solid(tmp_path / f"{name}.png", RED)
    (tmp_path / "names.json").write_text(json.dumps({"dog": "a dog", "cat": "a cat", "cow": "a cow"}))
    loaded = ZeroShot(pattern=r"-(?P<name>[a-z]+)-", classes="names.json").load(str(tmp_path), str(tmp_path / "cache"))
    assert [row["labels"] for row in loaded.cases.table.to_pylist()] == [[1], [0], [1]]
    assert loaded.cases.pools["custom/classes"] == ["a dog", "a cat", "a cow"], "classes without images stay candidates"


def test_published_numbers_need_official_counts_and_prompts(data_root: Path, tmp_path: Path) -> None:
    texts = data_root / "annotations/zeroshot"
    classes = json.loads((texts / "en_classnames.json").read_text())
    templates = json.loads((texts / "en_zeroshot_classification_templates.json").read_text())
    for dataset, like in {"imagenet1k": "imagenet1k", "imagenetv2": "imagenet1k", "mnist": "mnist", "pets": "pets"}.items():
        facts = ZeroShot(dataset=dataset).facts()
        assert facts.official_hashes["prompts"] == prompts_hash(classes[like], templates[like])
        assert set(facts.published[0].values) == {f"zero_shot/{dataset}/acc1"}
    assert ZeroShot(dataset="cub30").facts().published == []
    solid(tmp_path / "d/0/0.png", RED)
    solid(tmp_path / "d/1/0.png", RED)
    assert not ZeroShot(dataset="mnist").load(str(tmp_path / "d"), str(tmp_path / "c")).official


def write_wds(root: Path, shards: list[list[tuple[str, bytes]]], nshards: str | None = None) -> None:
    (root / "test").mkdir(parents=True, exist_ok=True)
    for number, members in enumerate(shards):
        with tarfile.open(root / f"test/{number}.tar", "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (root / "test/nshards.txt").write_text((nshards or str(len(shards))) + "\n")
    (root / "classnames.txt").write_text("red\nblue\ngreen\n")
    (root / "zeroshot_classification_templates.txt").write_text("a {c} thing\n{c}\n")
    (root / "dataset_type.txt").write_text("classification\n")


def picture(tmp_path: Path, colour: tuple[int, int, int]) -> bytes:
    solid(tmp_path / "one.png", colour)
    return (tmp_path / "one.png").read_bytes()


def test_wds_layout(tmp_path: Path) -> None:
    red, blue = picture(tmp_path, RED), picture(tmp_path, BLUE)
    shards = [[("s0.png", red), ("s0.cls", b"0"), ("s1.cls", b"1\n"), ("s1.png", blue)], [("s2.png", blue), ("s2.cls", b"0")]]
    write_wds(tmp_path / "w", shards)
    result, samples = run(tmp_path / "run", [{"name": "zero_shot", "root": str(tmp_path / "w"), "dataset": "wds"}], COLOUR_MODEL)
    assert result.metrics["zero_shot/wds/acc1"]["correct"] == 2
    assert [(row["query"], row["labels"], row["prediction"]) for row in samples.values()] == [
        ("test/0/s0", [0], 0),
        ("test/0/s1", [1], 1),
        ("test/1/s2", [0], 1),
    ]
    loaded = ZeroShot(dataset="wds").load(str(tmp_path / "w"), str(tmp_path / "cache"))
    again = ZeroShot(dataset="wds").load(str(tmp_path / "w"), str(tmp_path / "cache"))
    assert loaded.images.table.equals(again.images.table), "the kept index is the same"
    assert len(list((tmp_path / "cache").glob("wds-*.parquet"))) == 1
    assert loaded.images.read(loaded.images.locate(["test/1/s2"])) == [blue]
    assert loaded.cases.prototypes["green"] == ["a green thing", "green"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lost shard", "nshards.txt says 3 shards, 1 of them missing, the first is test/2.tar"),
        ("extra shard", "nshards.txt says 1 shards, but there is also test/1.tar"),
        ("no nshards", "test/nshards.txt beside test/0.tar not found"),
        ("bad nshards", "'two' is not a number of shards"),
        ("type", "a data set of type 'retrieval'"),
        ("label", "label out of range: 7 for 3 classes"),
        ("word", "'cat' is not a class number"),
        ("lonely image", "sample 's9' lacks its class"),
        ("lonely class", "sample 's9' lacks its image"),
        ("duplicate", "duplicate key 's0'"),
        ("damaged", "damaged tar file"),
        ("no classnames", "classnames.txt not found"),
    ],
)
def test_bad_wds_is_one_line(tmp_path: Path, change: str, message: str) -> None:
    red = picture(tmp_path, RED)
    shards: list[list[tuple[str, bytes]]] = [[("s0.png", red), ("s0.cls", b"0")], [("s1.png", red), ("s1.cls", b"1")]]
    extra: dict[str, list[tuple[str, bytes]]] = {
        "label": [("s9.png", red), ("s9.cls", b"7")],
        "word": [("s9.png", red), ("s9.cls", b"cat")],
        "lonely image": [("s9.png", red)],
        "lonely class": [("s9.cls", b"1")],
        "duplicate": [("s0.png", red)],
    }
    shards[0] += extra.get(change, [])
    write_wds(tmp_path / "w", shards, {"lost shard": "3", "extra shard": "1", "bad nshards": "two"}.get(change))
    if change == "no nshards":
        (tmp_path / "w/test/nshards.txt").unlink()
    if change == "no classnames":
        (tmp_path / "w/classnames.txt").unlink()
    if change == "type":
        (tmp_path / "w/dataset_type.txt").write_text("retrieval")
    if change == "damaged":
        tar = tmp_path / "w/test/0.tar"
        tar.write_bytes(b"x" * 600 + tar.read_bytes()[600:])
    with pytest.raises(DataError) as caught:
        ZeroShot().load(str(tmp_path / "w"), str(tmp_path / "cache"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def bad_layouts() -> dict[str, tuple[dict[str, Any], list[str], str]]:
    return {
        "flat": ({}, ["a.png", "b/c.png"], "image a.png is in no class folder"),
        "empty": ({}, [], "no images here"),
        "count": ({"classes": ["a", "b", "c"]}, ["x/1.png", "y/1.png"], "3 class names for 2 class folders"),
        "unnamed": ({"classes": {"x": "one", "z": "two"}}, ["x/1.png", "y/1.png"], "class folder 'y' has no name"),
        "range": ({"classes": ["a", "b"], "pattern": r"(?P<index>\d+)"}, ["0.png", "2.png"], "label out of range: 2 for 2 classes"),
        "unmatched": ({"classes": ["a", "b"], "pattern": r"^(?P<index>\d+)"}, ["0.png", "x.png"], "pattern does not match image x.png"),
        "word": ({"classes": ["a", "b"], "pattern": r"^(?P<index>\w+)"}, ["0.png", "x.png"], "'x' is not a class index"),
        "no list": ({"pattern": r"^(?P<index>\d+)"}, ["0.png"], "needs classes as a list"),
        "one class": ({}, ["x/1.png"], "1 class to choose from"),
        "encoding": ({"classes": "latin.txt"}, ["x/1.png"], "not UTF-8 text"),
        "no file": ({"classes": "gone.txt"}, ["x/1.png"], "file of class names not found"),
        "no key": ({"classes": "names.json#cats"}, ["x/1.png"], "no entry 'cats'"),
        "not a list": ({"classes": "names.json"}, ["x/1.png"], "name one entry of the file as FILE#KEY"),
    }


@pytest.mark.parametrize("name", bad_layouts())
def test_bad_input_is_one_line(tmp_path: Path, name: str) -> None:
    options, files, message = bad_layouts()[name]
    for file in files:
        solid(tmp_path / file, RED)
    (tmp_path / "names.json").write_text(json.dumps({"dogs": ["a", "b"]}))
    (tmp_path / "latin.txt").write_bytes("café\ntea\n".encode("latin-1"))
    with pytest.raises(DataError) as caught:
        ZeroShot(**options).load(str(tmp_path), str(tmp_path / "cache"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="exactly one of the groups"):
        ZeroShot(pattern="x")
    with pytest.raises(ConfigError, match="not a regular expression"):
        ZeroShot(pattern="(")
    with pytest.raises(ConfigError, match="option 'dataset'"):
        ZeroShot(dataset="a/b")
    with pytest.raises(ConfigError, match="did you mean 'templates'"):
        ZeroShot(template=["{c}"])


def test_unrelated_files_are_left_alone(tmp_path: Path) -> None:
    for number in range(2):
        noise(tmp_path / f"{number}/a.png", number)
    (tmp_path / "README.md").write_text("about")
    assert ZeroShot().load(str(tmp_path), str(tmp_path / "cache")).cases.table.num_rows == 2
