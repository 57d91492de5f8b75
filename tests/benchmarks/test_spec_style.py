"""The benchmark that composes its own cases."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from fgray.benchmarks.base import BENCHMARKS, LoadedBenchmark
from fgray.benchmarks.spec import read_spec_layout
from fgray.benchmarks.spec_style import SpecStyle
from fgray.errors import ConfigError, StorageError
from fgray.storage import open_storage

K = {"absolute_size": 3, "relative_size": 3, "absolute_spatial": 9, "relative_spatial": 4, "existence": 2, "count": 9}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def loaded(cache: Path) -> LoadedBenchmark:
    return SpecStyle(cases=4, seed=3).load(None, str(cache))


def folder_of(cache: Path) -> Path:
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    return folder


def test_it_is_registered_and_never_called_spec(loaded: LoadedBenchmark) -> None:
    assert BENCHMARKS.get("spec_style") is SpecStyle
    assert SpecStyle().cases == 20 and SpecStyle().seed == 0
    assert not loaded.official and loaded.info.published == () and loaded.info.official_counts == {}
    assert (loaded.title or loaded.info.title) == "SPEC-style, not SPEC"


def test_cases_and_metrics(loaded: LoadedBenchmark) -> None:
    table = loaded.cases.table
    counts = Counter(zip(table["subset"].to_pylist(), table["task"].to_pylist(), strict=True))
    assert counts == {**{(name, task): 4 * k for name, k in K.items() for task in ("i2t", "t2i")}, ("naming", "i2t"): 4}
    names = [metric.name for metric in loaded.metrics]
    assert {f"spec_style/{subset}/{task}" for subset in (*K, "macro") for task in ("i2t_accuracy", "t2i_accuracy", "accuracy")} < set(names)
    assert names[-1] == "spec_style/naming/accuracy"
    macro = next(metric for metric in loaded.metrics if metric.name == "spec_style/macro/accuracy")
    assert not any("naming" in part for part in macro.parts)
    loaded.cases.check()
    assert set(loaded.cases.references("image")) <= set(loaded.images.keys.to_pylist())


def test_it_is_what_the_spec_reader_reads(loaded: LoadedBenchmark, cache: Path) -> None:
    plain, _ = read_spec_layout(open_storage(str(folder_of(cache))), list(K))
    ours = loaded.cases.table.slice(0, plain.table.num_rows).drop_columns(["cluster_id"])
    assert ours.equals(plain.table.drop_columns(["cluster_id"]))


def test_clusters_share_no_cut_out(loaded: LoadedBenchmark, cache: Path) -> None:
    meta = json.loads((folder_of(cache) / "meta.json").read_text())
    images = [image for case in meta["cases"] for image in case["images"]]
    pasted = {image["path"].removesuffix(".jpg"): {one["cut_out"] for one in image["objects"]} for image in images}
    clusters: dict[str, set[str]] = {}
    for row in loaded.cases.table.to_pylist():
        keys = [row["query"]] if row["query_kind"] == "image" else row["candidates"]
        clusters.setdefault(row["cluster_id"], set()).update(*(pasted[key] for key in keys))
    assert len(clusters) >= 4
    assert sum(len(group) for group in clusters.values()) == len(set.union(*clusters.values()))


def test_naming_asks_for_the_object_of_its_image(loaded: LoadedBenchmark, cache: Path) -> None:
    meta = json.loads((folder_of(cache) / "meta.json").read_text())
    shown = {image["path"].removesuffix(".jpg"): image for case in meta["cases"] for image in case["images"]}
    rows = [row for row in loaded.cases.table.to_pylist() if row["subset"] == "naming"]
    for row in rows:
        (one,) = shown[row["query"]]["objects"]
        right = row["candidates"][row["labels"][0]]
        assert right in (f"a photo of a {one['category']}", f"a photo of an {one['category']}")
        assert max(one["box"][2:]) > 0.7 * 448
        assert len(set(row["candidates"])) == len(row["candidates"]) >= 15
    assert len({row["labels"][0] for row in rows}) > 1


def test_controls_are_there(loaded: LoadedBenchmark) -> None:
    assert loaded.shuffled_control
    assert len(loaded.controls) == 12
    assert all(entry["value"] >= 0.99 and entry["count"] == 4 / entry["chance"] for entry in loaded.controls.values())


def test_a_second_load_reads_what_the_first_composed(loaded: LoadedBenchmark, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    again = SpecStyle(cases=4, seed=3).load(None, str(cache))
    assert again.cases.table.equals(loaded.cases.table)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before


def test_a_folder_without_its_last_file_is_composed_anew(tmp_path: Path) -> None:
    benchmark = SpecStyle(cases=1, subsets=("existence",))
    first = benchmark.load(None, str(tmp_path))
    folder = folder_of(tmp_path)
    (folder / "oracle.json").unlink()
    (folder / "existence" / "images" / "0000-0.jpg").write_bytes(b"half")
    again = benchmark.load(None, str(tmp_path))
    assert again.cases.table.equals(first.cases.table)
    assert again.images.locate(again.cases.references("image"))["sha256"] == first.images.locate(first.cases.references("image"))["sha256"]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_options_change_the_folder(tmp_path: Path) -> None:
    for options in ({}, {"seed": 1}, {"cases": 2}, {"subsets": ("existence", "absolute_size")}):
        SpecStyle(**{"cases": 1, "subsets": ("existence",), **options}).load(None, str(tmp_path))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"case": 3}, "unknown option 'case' [benchmark spec_style]: did you mean 'cases'?"),
        ({"subsets": ["counts"]}, "did you mean 'count'?"),
        ({"cases": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SpecStyle(**options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError) as caught:
        SpecStyle(cases=1, subsets=("existence",)).load(None, str(tmp_path / "file"))
    assert "\n" not in str(caught.value)
