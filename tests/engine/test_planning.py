"""Planning against the plainest implementation there is: sets and sorted lists of Python."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgray.engine import idsets, planning, rows
from fgray.engine.idsets import IdTable, Places, locate, mark
from fgray.engine.part_index import Listed
from fgray.engine.planning import sort_slices, subtract
from fgray.engine.rows import Rows
from fgray.engine.units import ID_TYPE, make_units

SCHEMA = pa.schema(
    [
        ("item_id", ID_TYPE),
        ("root", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("row", pa.int64()),
        ("number", pa.int64()),
    ]
)
ORDER = ("root", "shard", "offset", "row")


class Stored:
    """The one thing that planning asks of a store."""

    def __init__(self, ids: list[bytes]) -> None:
        self.ids = ids

    def listed(self, kind: str):
        for start in range(0, len(self.ids), 3):
            yield Listed.join([("part", "{}", pa.array(self.ids[start : start + 3], ID_TYPE))])


@pytest.fixture(params=[False, True], ids=["in memory", "in files"])
def small_limits(request, monkeypatch) -> None:
    """Bring every limit down, so that a few rows are spread, spilled and sorted in many pieces."""
    if request.param:
        monkeypatch.setattr(idsets, "MEMORY", 1)
        monkeypatch.setattr(idsets, "SLICE", 3)
        monkeypatch.setattr(rows, "MEMORY", 1)
        monkeypatch.setattr(rows, "CHUNK", 2)
        monkeypatch.setattr(planning, "RUN", 8)
        monkeypatch.setattr(planning, "_STEP", 2)


def id_of(number: int, alike: bool = False) -> bytes:
    """Return an id; alike ones share their first eight bytes."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return bytes(8) + digest[:8] if alike else digest[:16]


def tables(requests: list[tuple], cuts: list[int]) -> list[pa.Table]:
    bounds = [0, *sorted(min(cut, len(requests)) for cut in cuts), len(requests)]
    columns = [dict(zip(SCHEMA.names, request, strict=True)) for request in requests]
    return [pa.Table.from_pylist(columns[a:b], SCHEMA) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


places = st.tuples(st.sampled_from("ab"), st.sampled_from(["s1", "s2", "s10"]), st.none() | st.integers(0, 5), st.integers(0, 5))
plans = st.lists(st.tuples(st.integers(0, 30), places), max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans, st.lists(st.integers(0, 40), max_size=30), st.lists(st.integers(0, 60), max_size=4), st.integers(1, 7), st.booleans())
def test_a_plan_is_requested_minus_stored_in_order(small_limits, plan, stored, cuts, unit_rows, alike) -> None:
    requests = [(id_of(number, alike), *place, number) for number, place in plan]
    have = [id_of(number, alike) for number in stored]
    distinct = {}
    for request in requests:
        distinct.setdefault(request[0], request)
    # Nulls last; Python's sort is stable, too.
    expected = sorted(distinct.values(), key=lambda r: (r[1], r[2], (r[3] is None, r[3] or 0), r[4]))
    missing = [request for request in expected if request[0] not in have]

    found = subtract(tables(requests, cuts), SCHEMA, Stored(have), "kind", ORDER)
    assert found.wanted.column("item_id").to_pylist() == [request[0] for request in expected]
    assert [tuple(row.values()) for row in found.missing.slice(0, 100).to_pylist()] == missing

    units = make_units("kind", found.missing, unit_rows, group="root")
    by_hand: list[list[tuple]] = []
    for request in missing:
        if by_hand and len(by_hand[-1]) < unit_rows and by_hand[-1][0][1] == request[1]:
            by_hand[-1].append(request)
        else:
            by_hand.append([request])
    assert [[tuple(row.values()) for row in unit.items.to_pylist()] for unit in units] == by_hand
    assert [unit.id for unit in units] == [hashlib.sha256(b"".join(sorted(r[0] for r in u))).hexdigest()[:32] for u in by_hand]
    assert units.items == len(missing)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans, st.lists(st.integers(0, 60), max_size=4))
def test_without_an_order_items_stay_as_they_came(small_limits, plan, cuts) -> None:
    requests = [(id_of(number), *place, number) for number, place in plan]
    found = subtract(tables(requests, cuts), SCHEMA, Stored([]), "kind")
    assert found.missing.column("number").to_pylist() == list(dict.fromkeys(number for number, _ in plan))


def test_large_tables_sort_as_small_ones_do(monkeypatch) -> None:
    monkeypatch.setattr(planning, "RUN", 1000)
    monkeypatch.setattr(planning, "_STEP", 10)
    random = np.random.default_rng(0)
    table = pa.table(
        {"shard": [f"s{n}" for n in random.integers(0, 20, 20_000)], "offset": random.integers(0, 50, 20_000), "at": range(20_000)}
    )
    slices = [table.slice(start, 700) for start in range(0, 20_000, 700)]
    found = list(sort_slices(slices, ["shard", "offset"]))
    assert len(found) > 10 and max(part.num_rows for part in found) < 4000
    rows_ = sorted(table.to_pylist(), key=lambda row: (row["shard"], row["offset"]))
    assert pa.concat_tables(found).to_pylist() == rows_


def test_ids_are_found_under_the_smallest_number(small_limits) -> None:
    asked, stored = IdTable(), IdTable()
    asked.add(pa.array([id_of(n) for n in (3, 1, 3, 9)], ID_TYPE))
    stored.add(pa.array([id_of(n) for n in (1, 3, 5, 3, 1)], ID_TYPE), np.array([7, 6, 5, 4, 8]))
    assert locate(asked, stored).tolist() == [4, 7, 4, -1]
    distinct, missing = mark(asked, stored)
    assert (distinct.tolist(), missing.tolist()) == ([True, True, False, True], [False, False, False, True])


def test_a_slice_of_an_id_array_is_that_slice() -> None:
    ids = pa.array([id_of(n) for n in range(10)], ID_TYPE)
    asked, stored = IdTable(), IdTable()
    asked.add(ids.slice(3, 4))
    stored.add(ids)
    assert locate(asked, stored).tolist() == [3, 4, 5, 6]


def test_rows_are_read_back_in_any_slice(small_limits) -> None:
    table = pa.table({"n": list(range(50)), "t": [str(n) for n in range(50)]})
    held = Rows(table.schema)
    for start in range(0, 50, 7):
        held.append(table.slice(start, 7))
    for start, length in ((0, 50), (13, 9), (49, 5), (50, 1), (6, 2), (7, 0)):
        assert held.slice(start, length).to_pylist() == table.slice(start, length).to_pylist()
    assert pa.concat_tables(held.slices()).to_pylist() == table.to_pylist()


def test_units_answer_like_a_list(tmp_path: Path) -> None:
    table = pa.table({"item_id": pa.array([id_of(n) for n in range(10)], ID_TYPE), "n": range(10)})
    units = make_units("a", table, 4) + make_units("b", table.slice(0, 0), 4) + make_units("b", table.slice(5), 3)
    shape = [("a", [0, 1, 2, 3]), ("a", [4, 5, 6, 7]), ("a", [8, 9]), ("b", [5, 6, 7]), ("b", [8, 9])]
    assert [(unit.kind, unit.items["n"].to_pylist()) for unit in units] == shape
    assert [(unit.kind, unit.items["n"].to_pylist()) for unit in units[1:4]] == shape[1:4]
    assert units[-1].kind == "b" and units == list(units) and units != list(units)[1:]
    with pytest.raises(IndexError):
        units[5]


@given(st.lists(st.integers(0, 20), max_size=30, unique=True), st.lists(st.integers(0, 20), max_size=30), st.integers(0, 3))
def test_places_are_those_of_a_dictionary(asked: list[int], given_ids: list[int], skipped: int) -> None:
    """Ids that differ in one half, in the other, and in such a way that what they are sorted by is the same."""

    def id_of(number: int) -> bytes:
        step = number % 7
        high, low = (number // 7 + step, -step * 0x9E3779B97F4A7C15 % 2**64)
        return high.to_bytes(8, "little") + low.to_bytes(8, "little")

    where = {id_of(number): at for at, number in enumerate(asked)}
    rows, places = Places(pa.array(list(where), ID_TYPE)).of(pa.array([id_of(n) for n in given_ids], ID_TYPE).slice(skipped))
    offered = [id_of(number) for number in given_ids[skipped:]]
    assert sorted(places) == sorted({where[one] for one in offered if one in where})
    assert all(where[offered[row]] == place for row, place in zip(rows, places, strict=True))
