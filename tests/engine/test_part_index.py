"""Index files of a store: they spare reading, and never decide what is stored."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgray.engine import part_index, run
from fgray.engine import store as store_module
from fgray.engine.gc import collect
from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.store import ResultStore, build_part
from fgray.engine.units import make_units
from fgray.errors import RunError
from fgray.runs import ITEM_SCHEMA, RunFolder
from tests.engine.toy import number_items, toy_stages


@pytest.fixture(autouse=True)
def few_parts(monkeypatch) -> None:
    for module in (part_index, run, store_module):
        monkeypatch.setattr(module, "PARTS", 4)


def ids_of(numbers) -> list[bytes]:
    return number_items(numbers)["item_id"].to_pylist()


def filled(folder: Path, units: int, rows: int = 3) -> ResultStore:
    store, stages = ResultStore(str(folder), "toy"), toy_stages()
    plan = make_units("square", number_items(range(units * rows)), rows)
    with Progress(len(plan), units * rows, stages) as progress:
        run_units(plan, stages, store, {"device": "cpu"}, "serial", progress)
    return store


def reads(monkeypatch, store: ResultStore) -> list[str]:
    """Note the parts that are opened."""
    opened: list[str] = []
    contents = ResultStore._contents

    def noted(self, part):
        opened.append(part[1].path)
        return contents(self, part)

    monkeypatch.setattr(ResultStore, "_contents", noted)
    return opened


def test_a_run_leaves_an_index_and_the_next_plan_opens_only_the_rest(tmp_path: Path, monkeypatch) -> None:
    store = filled(tmp_path, 10)
    assert len(list(tmp_path.glob("toy/square/index/*.idx"))) == 2
    opened = reads(monkeypatch, store)
    assert set(store.stored_ids("square").to_pylist()) == set(ids_of(range(30)))
    assert len(opened) == 2
    assert store.numerics("square") == [{"device": "cpu"}]
    assert store.parts("square") == sorted(f"square/{path.name}" for path in tmp_path.glob("toy/square/part-*"))


def test_parts_without_an_index_get_one(tmp_path: Path, monkeypatch) -> None:
    store = filled(tmp_path, 9)
    for file in tmp_path.glob("toy/square/index/*.idx"):
        file.unlink()
    opened = reads(monkeypatch, store)
    assert set(store.stored_ids("square").to_pylist()) == set(ids_of(range(27)))
    assert len(opened) == 9
    assert set(store.stored_ids("square").to_pylist()) == set(ids_of(range(27)))
    assert len(opened) == 10


def test_a_deleted_part_counts_no_more_whatever_an_index_says(tmp_path: Path) -> None:
    store = filled(tmp_path, 8)
    gone = sorted(tmp_path.glob("toy/square/part-*"))[3]
    lost = pq.read_table(gone)["item_id"].to_pylist()
    gone.unlink()
    assert set(store.stored_ids("square").to_pylist()) == set(ids_of(range(24))) - set(lost)
    with pytest.raises(RunError, match="3 of 24 square results are missing"):
        list(store.stream("square", number_items(range(24))["item_id"].combine_chunks(), 5))


def test_damaged_and_doubled_index_files_are_passed_over(tmp_path: Path) -> None:
    store = filled(tmp_path, 8)
    one, two = sorted(tmp_path.glob("toy/square/index/*.idx"))
    one.write_bytes(one.read_bytes()[:100])
    (two.parent / f"{'0' * 32}.idx").write_bytes(two.read_bytes())
    found = [id_ for listed in store.listed("square") for id_ in listed.ids.to_pylist()]
    assert sorted(found) == sorted(ids_of(range(24)))


def test_large_parts_are_read_by_range(tmp_path: Path, monkeypatch) -> None:
    store = ResultStore(str(tmp_path), "toy")
    values = np.random.default_rng(0).normal(size=(500, 600)).astype(np.float32)
    store.commit("square", build_part(number_items(range(500)), {"value": values}, {}), {"device": "gpu"})
    (file,) = tmp_path.glob("toy/square/part-*")
    assert file.stat().st_size > 1_000_000
    read: list[int] = []
    plain = type(store._storage).read_bytes

    def counted(self, path, offset=0, length=None):
        data = plain(self, path, offset, length)
        read.append(len(data))
        return data

    monkeypatch.setattr(type(store._storage), "read_bytes", counted)
    monkeypatch.setattr(store_module, "WHOLE_BYTES", 1000)
    assert store.stored_ids("square").to_pylist() == ids_of(range(500))
    assert sum(read) < 800_000 and store.numerics("square") == [{"device": "gpu"}]


def write_run(folder: Path, numbers) -> str:
    run_folder = RunFolder(str(folder))
    ids = number_items(numbers)["item_id"]
    run_folder.write_slices(RunFolder.ITEMS, ITEM_SCHEMA, [pa.table([pa.repeat("square", len(ids)), ids], schema=ITEM_SCHEMA)])
    return run_folder.uri


def test_collection_keeps_the_smallest_part_of_each_needed_item_and_trims_the_index(tmp_path: Path, monkeypatch) -> None:
    store = filled(tmp_path / "store", 8)
    store.commit("square", build_part(number_items([0, 30]), {"value": np.zeros((2, 2), np.float32)}, {}), {})
    named = {path.name: set(pq.read_table(path)["item_id"].to_pylist()) for path in sorted((tmp_path / "store/toy/square").glob("part-*"))}
    run_uri = write_run(tmp_path / "run", [0, 4, 5])
    expected = {next(name for name, ids in named.items() if id_ in ids) for id_ in ids_of([0, 4, 5])}
    before = {path.name for path in (tmp_path / "store/toy/square").iterdir()}
    dry = collect(str(tmp_path / "store"), [run_uri], dry_run=True)
    assert {path.name for path in (tmp_path / "store/toy/square").iterdir()} == before
    done = collect(str(tmp_path / "store"), [run_uri])
    assert (done.parts, done.kept, done.bytes) == (dry.parts, dry.kept, dry.bytes) == (9 - len(expected), len(expected), done.bytes)
    assert {path.name for path in (tmp_path / "store/toy/square").glob("part-*")} == expected
    listed = [name for file in (tmp_path / "store/toy/square/index").glob("*.idx") for name in pq.read_table(file)["part"].to_pylist()]
    assert {f"part-{name}.parquet" for name in listed} <= expected
    assert store.read("square", number_items([4, 5])["item_id"].combine_chunks()).values[:, 0].tolist() == [16, 25]


def test_an_index_is_named_by_its_parts(tmp_path: Path) -> None:
    filled(tmp_path / "a", 4)
    filled(tmp_path / "b", 4)
    names = [[path.name for path in (tmp_path / side / "toy/square/index").iterdir()] for side in "ab"]
    assert names[0] == names[1] and len(names[0]) == 1
    assert json.loads(pq.read_table(next((tmp_path / "a/toy/square/index").iterdir()))["numerics"][0].as_py()) == {"device": "cpu"}
