import hashlib
import itertools

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fgray.engine.units import ID_TYPE, Unit, ids_of_digests, item_id, make_units, missing_items, unit_id
from tests.engine.toy import number_items


def test_an_items_address_changes_with_every_part_of_it() -> None:
    parts = ("embed_image", "model", b"content")
    ids = {item_id(*parts), item_id("embed_text", *parts[1:]), item_id(parts[0], "other", parts[2]), item_id(*parts[:2], b"Content")}
    assert len(ids) == 4 and all(len(id_) == 16 for id_ in ids)


def test_neighbouring_parts_do_not_run_into_each_other() -> None:
    assert item_id("ab", "c", b"d") != item_id("a", "bc", b"d") != item_id("a", "b", b"cd")


def test_addresses_of_known_hashes_are_as_distinct_as_the_others() -> None:
    digests = [hashlib.sha256(bytes([n])).digest() for n in (1, 2, 3, 1)]
    column = pa.chunked_array([pa.array(digests[:1], pa.binary(32)), pa.array([b"0" * 32, *digests[1:]], pa.binary(32)).slice(1)])
    asked = [
        ("embed_image", "model", b"100"),
        ("embed_region", "model", b"100"),
        ("embed_image", "other", b"100"),
        ("embed_image", "model", b"1"),
    ]
    found = [ids_of_digests(kind, model, column, settings) for kind, model, settings in asked]
    assert all(ids.type == ID_TYPE for ids in found)
    for (kind, model, settings), ids in zip(asked, found, strict=True):
        question = int.from_bytes(item_id(kind, model, settings), "big")
        assert ids.to_pylist() == [(int.from_bytes(digest[:16], "big") ^ question).to_bytes(16, "big") for digest in digests]
    assert len({id_ for ids in found for id_ in ids.to_pylist()}) == 4 * 3
    assert len(ids_of_digests("embed_image", "model", pa.array([], pa.binary(32)), b"")) == 0


def test_a_units_name_is_the_hash_of_its_sorted_ids() -> None:
    ids = [b"c" * 16, b"a" * 16, b"b" * 16]
    expected = hashlib.sha256(b"a" * 16 + b"b" * 16 + b"c" * 16).hexdigest()[:32]
    assert {unit_id(order) for order in itertools.permutations(ids)} == {expected}


@given(st.lists(st.integers(0, 50), max_size=80), st.lists(st.integers(0, 50), max_size=40))
def test_missing_is_requested_minus_stored_once_each_in_order(requested: list[int], stored: list[int]) -> None:
    have = pa.array([item_id("square", "toy", str(n).encode()) for n in stored], ID_TYPE)
    expected = []
    for number in requested:
        if number not in stored and number not in expected:
            expected.append(number)
    assert missing_items(number_items(requested), have)["number"].to_pylist() == expected


@given(st.integers(0, 200), st.integers(1, 40))
def test_units_partition_the_items(count: int, rows: int) -> None:
    units = make_units("square", number_items(range(count)), rows)
    assert [n for unit in units for n in unit.items["number"].to_pylist()] == list(range(count))
    assert all(1 <= unit.items.num_rows <= rows for unit in units)


def test_nothing_makes_no_units() -> None:
    items = number_items([]).append_column("root", pa.array([], pa.string()))
    assert make_units("square", items, 2, group="root") == make_units("square", items, 2) == []


def test_no_unit_spans_two_groups() -> None:
    items = number_items(range(7)).append_column("root", pa.array(list("aaabbbb")))
    units = make_units("square", items, 2, group="root")
    assert [unit.items["root"].to_pylist() for unit in units] == [["a", "a"], ["a"], ["b", "b"], ["b", "b"]]


def test_halves_are_the_unit() -> None:
    left, right = Unit("square", number_items(range(5))).halves()
    assert (left.items["number"].to_pylist(), right.items["number"].to_pylist()) == ([0, 1], [2, 3, 4])
