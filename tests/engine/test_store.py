from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgray.engine.store import ResultStore, build_part
from fgray.engine.units import ID_TYPE, unit_id
from fgray.errors import RunError
from tests.engine.toy import number_items


def ids_of(numbers) -> pa.Array:
    return number_items(numbers)["item_id"].combine_chunks()


def part(numbers, offset: float = 0.0, errors=None) -> pa.Table:
    values = np.array([[n + offset, -n] for n in numbers], np.float32)
    return build_part(number_items(numbers), {"value": values, "truncated": np.array([n > 3 for n in numbers])}, errors or {})


def test_what_is_committed_is_read_back_in_the_order_asked(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path), "model")
    store.commit("square", part([1, 2, 3]), {"device": "cpu"})
    store.commit("square", part([4, 5], errors={1: "decode: truncated"}), {"device": "cpu"})
    results = store.read("square", ids_of([5, 3, 4, 1]))
    assert results.errors == ["decode: truncated", None, None, None]
    assert results.values.dtype == np.float32
    assert results.values.tolist() == [[0, 0], [3, -3], [4, -4], [1, -1]]
    assert results.columns["truncated"].tolist() == [False, False, True, False]
    assert store.numerics("square") == [{"device": "cpu"}]


def test_ids_that_are_asked_twice_and_columns_that_not_every_part_has(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path), "model")
    store.commit("square", part([1, 2]), {})
    text = build_part(number_items([3]), {"value": np.array([[9, 9]], np.float32), "note": np.array(["long"], object)}, {})
    store.commit("square", text, {})
    results = store.read("square", ids_of([3, 1, 3]))
    assert results.values.tolist() == [[9, 9], [1, -1], [9, 9]]
    assert results.columns["note"].tolist() == ["long", "", "long"]
    assert results.columns["truncated"].tolist() == [False, False, False]
    with pytest.raises(RunError, match="1 of 2 square results are missing"):
        store.read("square", ids_of([7, 7, 1]))


def test_whole_numbers_beside_an_error_keep_all_their_bits(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path), "model")
    values = np.array([[2**63 + 1, 3], [5, 2**64 - 1]], np.uint64)
    store.commit("hash", build_part(number_items([1, 2, 3]), {"value": np.concatenate([values, values[:1]])}, {2: "decode: x"}), {})
    found = store.read("hash", ids_of([2, 3, 1])).values
    assert found.dtype == np.uint64
    assert found.tolist() == [values[1].tolist(), [0, 0], values[0].tolist()]


def test_of_duplicates_the_smallest_unit_wins_whatever_the_order_of_commits(tmp_path: Path) -> None:
    first, second = [1, 2], [2, 3]
    winner = min((unit_id(ids_of(numbers).to_pylist()), offset) for numbers, offset in ((first, 100.0), (second, 200.0)))[1]
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        store = ResultStore(str(tmp_path / name), "model")
        for which in order:
            store.commit("square", part((first, second)[which], (100.0, 200.0)[which]), {})
        assert store.read("square", ids_of([2])).values[0, 0] == 2 + winner


def test_kinds_and_models_do_not_mix(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path), "model")
    store.commit("square", part([1]), {})
    assert len(store.stored_ids("cube")) == 0
    assert len(ResultStore(str(tmp_path), "other").stored_ids("square")) == 0
    assert store.stored_ids("square").to_pylist() == ids_of([1]).to_pylist()


def test_a_missing_item_is_an_error(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path), "model")
    store.commit("square", part([1]), {})
    with pytest.raises(RunError, match="1 of 2 square results are missing"):
        store.read("square", ids_of([1, 2]))


def test_a_damaged_part_is_named_with_the_remedy(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path), "model")
    name = store.commit("square", part([1, 2]), {})
    path = tmp_path / "model" / "square" / f"part-{name}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match="damaged result part") as caught:
        store.stored_ids("square")
    assert path.name in str(caught.value) and "delete that file" in str(caught.value)


def test_an_item_is_stored_at_its_width(tmp_path: Path) -> None:
    assert part([1])["item_id"].type == ID_TYPE


def test_a_unit_is_committed_when_the_part_of_exactly_its_items_is_there(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path), "model")
    store.commit("square", part([4, 5, 6], errors={1: "decode: truncated"}), {})
    assert store.errors_of("square", number_items([5, 6, 4])["item_id"]) == {0: "decode: truncated"}
    assert store.errors_of("square", number_items([4, 5])["item_id"]) is None
    assert store.errors_of("cube", number_items([4, 5, 6])["item_id"]) is None
