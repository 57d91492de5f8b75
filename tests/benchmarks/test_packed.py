"""`fgray import`: a packed benchmark gives the cases, images and numbers of its official layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fgray.benchmarks.base import BENCHMARKS
from fgray.benchmarks.packed import import_benchmark
from fgray.data.verify import verify_shards
from fgray.errors import ConfigError, DataError
from fgray.runs import RunFolder
from tests.benchmarks.layouts import dump, noise, run, write_spec
from tests.benchmarks.test_zero_shot import write_wds

TINY = {"kind": "tiny"}


def write_sugarcrepe(root: Path) -> None:
    for number in range(4):
        noise(root / f"val2017/{number:012d}.jpg", number)
    items = {str(n): {"filename": f"{n % 4:012d}.jpg", "caption": f"a {n}", "negative_caption": f"b {n}"} for n in range(6)}
    dump(root / "swap_obj.json", items)
    dump(root / "swap_att.json", items)


def write_captions(root: Path) -> None:
    rows = []
    for number in range(5):
        noise(root / f"images/{number}.x.jpg", number)
        rows.append({"image": f"images/{number}.x.jpg", "split": "test", "captions": [f"a {number}", f"the {number}"]})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_classes(root: Path) -> None:
    for number in range(6):
        noise(root / f"class_{number % 3}/{number}.png", number)


def write_shards(root: Path) -> None:
    noise(root / "one.webp", 1)
    data = (root / "one.webp").read_bytes()
    (root / "one.webp").unlink()
    write_wds(root, [[("s0.webp", data), ("s0.cls", b"1")], [("s0.webp", data), ("s0.cls", b"2")]])


LAYOUTS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "spec": ("spec", lambda root: write_spec(root, {"existence": 2, "count": 3}, sets=2), {"subsets": ["existence", "count"]}),
    "sugarcrepe": ("sugarcrepe", write_sugarcrepe, {"categories": ["swap_obj", "swap_att"]}),
    "retrieval": ("retrieval", write_captions, {}),
    "zero_shot": ("zero_shot", write_classes, {"dataset": "three", "templates": ["{c}", "one {c}"]}),
    "zero_shot wds": ("zero_shot", write_shards, {"dataset": "wds"}),
}


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_packed_folder_is_the_same_benchmark(tmp_path: Path, layout: str, shard_format: Any) -> None:
    name, write, options = LAYOUTS[layout]
    write(tmp_path / "src")
    facts = import_benchmark(name, str(tmp_path / "src"), str(tmp_path / "dst"), options, format=shard_format, shard_bytes=3000)
    assert verify_shards(str(tmp_path / "dst")) == []
    kind = BENCHMARKS.get(name)
    plain = kind(**options).load(str(tmp_path / "src"), str(tmp_path / "cache"))
    packed = kind().load(str(tmp_path / "dst"), str(tmp_path / "cache"))  # the options are remembered
    assert packed.cases.table.equals(plain.cases.table)
    assert packed.cases.pools == plain.cases.pools
    assert packed.cases.prototypes == plain.cases.prototypes
    assert packed.metrics == plain.metrics
    assert (packed.info, packed.official, packed.notes) == (plain.info, plain.official, plain.notes)
    keys = plain.cases.references("image")
    assert len(keys) == facts["images"] == len(packed.images.keys)
    assert packed.images.read(packed.images.locate(keys)) == plain.images.read(plain.images.locate(keys))


def test_packed_and_official_layout_give_identical_metrics(tmp_path: Path) -> None:
    write_spec(tmp_path / "src", {"existence": 2, "count": 3}, sets=3)
    options = {"subsets": ["existence", "count"]}
    import_benchmark("spec", str(tmp_path / "src"), str(tmp_path / "dst"), options)
    outs = {}
    for place in ("src", "dst"):
        run(tmp_path / f"run-{place}", [{"name": "spec", "root": str(tmp_path / place), **options}], TINY)
        outs[place] = (tmp_path / f"run-{place}" / RunFolder.METRICS).read_bytes()
    assert outs["src"] == outs["dst"]


def test_narrowing_and_contradicting_a_packed_folder(tmp_path: Path) -> None:
    write_spec(tmp_path / "src", {"existence": 2, "count": 3}, sets=2)
    kind = BENCHMARKS.get("spec")
    import_benchmark("spec", str(tmp_path / "src"), str(tmp_path / "dst"), {"subsets": ["existence", "count"]})
    narrow = kind(subsets=["count"]).load(str(tmp_path / "dst"), str(tmp_path / "cache"))
    assert set(narrow.cases.table["subset"].to_pylist()) == {"count"}
    assert {metric.name.split("/")[1] for metric in narrow.metrics} == {"count"}
    with pytest.raises(DataError, match="'absolute_size' is not in this packed folder .*it holds count, existence"):
        kind(subsets=["absolute_size"]).load(str(tmp_path / "dst"), str(tmp_path / "cache"))
    with pytest.raises(DataError, match="this folder holds spec, not sugarcrepe"):
        BENCHMARKS.get("sugarcrepe")().load(str(tmp_path / "dst"), str(tmp_path / "cache"))

    write_captions(tmp_path / "c")
    import_benchmark("retrieval", str(tmp_path / "c"), str(tmp_path / "packed"))
    with pytest.raises(DataError, match="packed with split = 'test', asked for 'train'"):
        BENCHMARKS.get("retrieval")(split="train").load(str(tmp_path / "packed"), str(tmp_path / "cache"))


def test_ties_may_differ_from_those_of_the_import(tmp_path: Path) -> None:
    write_sugarcrepe(tmp_path / "src")
    import_benchmark("sugarcrepe", str(tmp_path / "src"), str(tmp_path / "dst"), {"categories": ["swap_obj"]})
    loaded = BENCHMARKS.get("sugarcrepe")(ties="expected").load(str(tmp_path / "dst"), str(tmp_path / "cache"))
    assert [metric.ties for metric in loaded.metrics if hasattr(metric, "ties")] == ["expected"]


def test_an_interrupted_import_is_run_again(tmp_path: Path) -> None:
    write_captions(tmp_path / "src")
    import_benchmark("retrieval", str(tmp_path / "src"), str(tmp_path / "dst"))
    (tmp_path / "dst/benchmark.json").unlink()  # what a kill before the last step leaves
    (tmp_path / "dst/cases.parquet").unlink()
    import_benchmark("retrieval", str(tmp_path / "src"), str(tmp_path / "dst"))
    assert BENCHMARKS.get("retrieval")().load(str(tmp_path / "dst"), str(tmp_path / "cache")).cases.table.num_rows == 15
    (tmp_path / "dst/benchmark.json").unlink()
    noise(tmp_path / "src/images/0.x.jpg", 99)
    with pytest.raises(DataError, match="the shards here hold other images"):
        import_benchmark("retrieval", str(tmp_path / "src"), str(tmp_path / "dst"))


def test_refusals(tmp_path: Path) -> None:
    write_captions(tmp_path / "src")
    import_benchmark("retrieval", str(tmp_path / "src"), str(tmp_path / "dst"))
    with pytest.raises(DataError, match="holds a packed benchmark already"):
        import_benchmark("retrieval", str(tmp_path / "src"), str(tmp_path / "dst"))
    with pytest.raises(DataError, match="packed already"):
        import_benchmark("retrieval", str(tmp_path / "dst"), str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="no benchmark is called 'retreival'"):
        import_benchmark("retreival", str(tmp_path / "src"), str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="unknown option 'datset'"):
        import_benchmark("retrieval", str(tmp_path / "src"), str(tmp_path / "other"), {"datset": "flickr8k"})
    (tmp_path / "dst/benchmark.json").write_text('{"name": "retrieval"}')
    with pytest.raises(DataError, match="'options' is missing"):
        BENCHMARKS.get("retrieval")().load(str(tmp_path / "dst"), str(tmp_path / "cache"))
