"""What is asked less what is stored, in the order of the work: exact for 10^8 items, in memory that does not grow with them.

Two bytes per item stay in memory; the rest goes through buckets and slices that lie in temporary files once they are large.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgray.engine.idsets import IdTable, mark
from fgray.engine.rows import Rows
from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE

RUN = 1 << 20  # rows sorted at a time
_STEP = 1 << 10  # every so many rows of a sorted run its key is kept
_MISSING = "missing"  # a column while rows are ordered

Key = tuple[Any, ...]


class Subtracted(NamedTuple):
    """A plan's items.

    Attributes:
        wanted: the distinct item ids (column ``item_id``) in the order of the work.
        missing: of those that are not stored, all columns.
    """

    wanted: Rows
    missing: Rows


def subtract(requests: Iterable[pa.Table], schema: pa.Schema, store: ResultStore, kind: str, order: Sequence[str] = ()) -> Subtracted:
    """Drop repeated items and stored ones.

    Args:
        requests: tables with a column ``item_id``; of equal ids the first row counts.
        schema: of the tables.
        store: whose items of the kind are not missing.
        kind: request kind.
        order: columns to order by, nulls last, equal ones as they came; none: all stay as they came.
    """
    held, asked, ordered, last = Rows(schema), IdTable(), True, None
    for table in requests:
        held.append(table)
        asked.add(table["item_id"])
        if ordered and order and table.num_rows:
            ordered = _in_order(table, order) and (last is None or last <= _key(table, 0, order))
            last = _key(table, table.num_rows - 1, order)
    stored = IdTable()
    for listed in store.listed(kind) if asked.count else ():
        stored.add(listed.ids)
    distinct, missing = mark(asked, stored)
    found = Subtracted(Rows(pa.schema([("item_id", ID_TYPE)])), Rows(schema))
    flagged = _flagged(held, distinct, missing)
    for table in flagged if ordered else sort_slices(flagged, order):
        found.wanted.append(table.select(["item_id"]))
        found.missing.append(table.filter(table[_MISSING]).drop_columns([_MISSING]))
    return found


def _flagged(held: Rows, distinct: Any, missing: Any) -> Iterator[pa.Table]:
    """Yield the distinct rows with a column that says which are missing."""
    done = 0
    for table in held.slices():
        here = slice(done, done + table.num_rows)
        done += table.num_rows
        yield table.append_column(_MISSING, pa.array(missing[here])).filter(pa.array(distinct[here]))


def sort_slices(slices: Iterable[pa.Table], keys: Sequence[str]) -> Iterator[pa.Table]:
    """Yield all rows, sorted; the sort is stable and nulls come last.

    Sorted runs are kept in files; then one range of keys after the other is read from all runs and sorted.
    """
    runs: list[Rows] = []
    sparse: list[list[Key]] = []
    for table in _regroup(slices):
        run = table.sort_by([(key, "ascending") for key in keys])
        if table.num_rows < RUN and not runs:
            yield run
            return
        runs.append(Rows(run.schema, chunk=RUN // 128))
        runs[-1].append(run)
        sparse.append([_key(run, row, keys) for row in range(0, run.num_rows, _STEP)])
    samples = sorted(key for found in sparse for key in found)
    bounds = [None, *samples[RUN // _STEP :: RUN // _STEP], None]
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        parts = []
        for run_rows, found in zip(runs, sparse, strict=True):
            first = 0 if low is None else max(0, bisect_left(found, low) - 1) * _STEP
            stop = run_rows.num_rows if high is None else bisect_left(found, high) * _STEP
            parts.append(run_rows.slice(first, max(0, stop - first)))
        table = pa.concat_tables(parts).combine_chunks().sort_by([(key, "ascending") for key in keys])
        rows = _Keys(table, keys)
        first = 0 if low is None else bisect_left(rows, low)
        stop = table.num_rows if high is None else bisect_left(rows, high)
        yield table.slice(first, stop - first)


class _Keys(Sequence[Key]):
    """The keys of a table's rows, for bisection."""

    def __init__(self, table: pa.Table, keys: Sequence[str]) -> None:
        self.table, self.keys = table, keys

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, row: Any) -> Any:
        return _key(self.table, row, self.keys)


def _regroup(slices: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for table in slices:
        held.append(table)
        if sum(one.num_rows for one in held) >= RUN:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _key(table: pa.Table, row: int, keys: Sequence[str]) -> Key:
    values = [table[name][row].as_py() for name in keys]
    return tuple((value is None, value) for value in values)


def _in_order(table: pa.Table, keys: Sequence[str]) -> bool:
    """Return whether each row's key is at least that of the row before."""
    equal = np.ones(max(0, table.num_rows - 1), bool)
    for name in keys:
        column = table[name].combine_chunks()
        one, two = column.slice(0, len(equal)), column.slice(1)
        nulls = [part.is_null().to_numpy(zero_copy_only=False) for part in (one, two)]
        less = pc.fill_null(pc.less(one, two), False).to_numpy(zero_copy_only=False) | (~nulls[0] & nulls[1])
        same = pc.fill_null(pc.equal(one, two), False).to_numpy(zero_copy_only=False) | (nulls[0] & nulls[1])
        if np.any(equal & ~less & ~same):
            return False
        equal &= same
    return True
