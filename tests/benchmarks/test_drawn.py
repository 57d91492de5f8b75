"""Ordinary pairs of drawn objects, and SPEC-style cases of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fgray.benchmarks.base import BENCHMARKS, LoadedBenchmark
from fgray.benchmarks.drawn import Drawn
from fgray.benchmarks.pairs import pairs_of
from fgray.benchmarks.spec_style import SpecStyle
from fgray.errors import ConfigError

ATTRIBUTES = re.compile(
    r"\b(large|medium|small|big|bigger|smaller|equal|left|right|top|bottom|above|below|center|corner|next|beside|one|two|three|four|five|six"
    r"|seven|eight|nine|no|not|there|both|pair|several|many|photo)\b"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def test_split(cache: Path) -> LoadedBenchmark:
    return Drawn(images=160).load(None, str(cache / "test"))


@pytest.fixture(scope="module")
def train_split(cache: Path) -> LoadedBenchmark:
    return Drawn(split="train", images=60, seed=1).load(None, str(cache / "train"))


def pictures(cache: Path, split: str) -> list[dict[str, Any]]:
    (file,) = (cache / split).glob("drawn-*/pictures.json")
    return json.loads(file.read_text())["pictures"]


def test_pairs_are_pictures_with_captions_of_what_they_show(test_split: LoadedBenchmark, train_split: LoadedBenchmark, cache: Path) -> None:
    for split, loaded, count in (("test", test_split, 160), ("train", train_split, 60)):
        shown = {picture["path"].removesuffix(".jpg"): picture for picture in pictures(cache, split)}
        pairs = pairs_of(loaded).table.to_pylist()
        assert {pair["image"] for pair in pairs} == set(shown) and len(pairs) == count
        for pair in pairs:
            assert not ATTRIBUTES.search(pair["text"])
            nouns = [word for word in re.findall(r"[a-z]+", pair["text"]) if any(word in one for one in pair["label"].split(" and "))]
            objects = shown[pair["image"]]["objects"]
            assert [noun for noun in nouns if noun not in ("a", "an")] == [one["category"] for one in objects]
            assert pair["label"] == " and ".join(sorted(one["category"] for one in objects))
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", pair["text"].replace("an image", ""))
        assert Counter(len(picture["objects"]) for picture in shown.values()) == {1: count // 2, 2: count // 2}
        assert len({re.sub(r"\ban? (?!drawing|picture|image)[a-z]+\b", "X", pair["text"]) for pair in pairs}) == 12


def test_objects_lie_inside_and_apart(test_split: LoadedBenchmark, cache: Path) -> None:
    for picture in pictures(cache, "test"):
        boxes = [one["box"] for one in picture["objects"]]
        assert all(min(left, top) >= 6 and max(left + w, top + h) <= 106 and max(w, h) >= 25 for left, top, w, h in boxes)
        if len(boxes) == 2:
            a, b = boxes
            assert max(b[0] - a[0] - a[2], a[0] - b[0] - b[2], b[1] - a[1] - a[3], a[1] - b[1] - b[3]) >= 2


def test_naming_is_balanced_and_its_answers_stand_anywhere(test_split: LoadedBenchmark, cache: Path) -> None:
    shown = {picture["path"].removesuffix(".jpg"): picture for picture in pictures(cache, "test")}
    rows = [row for row in test_split.cases.table.to_pylist() if row["subset"] == "naming"]
    assert set(Counter(row["category"] for row in rows).values()) == {4} and len(rows) == 80
    for row in rows:
        (one,) = shown[row["query"]]["objects"]
        assert re.fullmatch(rf"a drawing of an? {one['category']}", row["candidates"][row["labels"][0]])
        assert len(set(row["candidates"])) == 20
    assert len({row["labels"][0] for row in rows}) >= 15


def test_captions_differ_in_one_object_and_one_is_right(test_split: LoadedBenchmark) -> None:
    rows = [row for row in test_split.cases.table.to_pylist() if row["subset"] == "captions"]
    captions = {pair["image"]: pair["text"] for pair in pairs_of(test_split).table.to_pylist()}
    assert len(rows) == 160 and set(Counter(row["labels"][0] for row in rows)) == set(range(10))
    for row in rows:
        right = row["candidates"][row["labels"][0]].split()
        assert " ".join(right) == captions[row["query"]] and len(set(row["candidates"])) == 10
        for text in row["candidates"]:
            changed = [(a, b) for a, b in zip(right, text.split(), strict=True) if a != b and {a, b} != {"a", "an"}]
            assert len(changed) == (0 if text == captions[row["query"]] else 1)


def test_splits_share_no_object_and_no_background(test_split: LoadedBenchmark, train_split: LoadedBenchmark, cache: Path) -> None:
    used = []
    for split in ("test", "train"):
        found = pictures(cache, split)
        used.append({one["cut_out"] for p in found for one in p["objects"]} | {p["background"] for p in found})
    assert not used[0] & used[1]
    met = [{p["caption"] for p in pictures(cache, split) if len(p["objects"]) == 2} for split in ("test", "train")]
    assert met[0] and met[1] and not met[0] & met[1]


def test_clusters_share_no_object(test_split: LoadedBenchmark, cache: Path) -> None:
    shown = {picture["path"].removesuffix(".jpg"): {one["cut_out"] for one in picture["objects"]} for picture in pictures(cache, "test")}
    clusters: dict[str, set[str]] = {}
    for row in test_split.cases.table.to_pylist():
        clusters.setdefault(row["cluster_id"], set()).update(shown[row["query"]])
    assert len(clusters) >= 80
    assert sum(len(group) for group in clusters.values()) == len(set.union(*clusters.values()))


def test_facts_and_a_second_load(test_split: LoadedBenchmark, cache: Path) -> None:
    assert BENCHMARKS.get("drawn") is Drawn
    assert [metric.name for metric in test_split.metrics] == ["drawn/captions/accuracy", "drawn/naming/accuracy"]
    assert "not photographs" in test_split.notes[0] and "COCO" not in test_split.info.licence
    before = {path: path.stat().st_mtime_ns for path in (cache / "test").rglob("*")}
    again = Drawn(images=160).load(None, str(cache / "test"))
    assert again.cases.table.equals(test_split.cases.table)
    assert {path: path.stat().st_mtime_ns for path in (cache / "test").rglob("*")} == before
    with pytest.raises(ConfigError, match=r"option 'split'.*\[benchmark drawn\]"):
        Drawn(split="val")


def test_spec_style_of_drawn_objects_says_so(cache: Path) -> None:
    loaded = SpecStyle(bank="drawn_test", cases=3, subsets=("absolute_size", "existence")).load(None, str(cache / "spec"))
    assert loaded.info.name == "spec_style/drawn_test" and "drawn objects (test), not SPEC" in loaded.info.title
    assert "COCO" not in loaded.info.licence + loaded.info.bibtex and "peng2024synthesize" in loaded.info.bibtex
    assert "drawn objects, not photographs: bank drawn_test" in loaded.notes[0]
    names = [metric.name for metric in loaded.metrics]
    assert names[0] == "spec_style/drawn_test/absolute_size/i2t_accuracy" and names[-1] == "spec_style/drawn_test/naming/accuracy"
    assert set(loaded.controls) == {
        f"spec_style/drawn_test/{subset}/oracle_{task}_accuracy" for subset in ("absolute_size", "existence") for task in ("i2t", "t2i")
    }
    naming = [row for row in loaded.cases.table.to_pylist() if row["subset"] == "naming"]
    assert all(len(row["candidates"]) == 20 and row["candidates"][0].startswith("a drawing of a") for row in naming)
    with pytest.raises(ConfigError, match="option 'bank'"):
        SpecStyle(bank="drawn")
