"""The result store: ``MODEL_FP/KIND/part-UNIT.parquet``, one file per unit, written whole in one put."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.engine.units import ID_TYPE, unit_id
from fgray.errors import RunError
from fgray.storage import Storage, open_storage

T = TypeVar("T")
READ_THREADS = 16  # parts are small and latency dominates on S3
NUMERICS_KEY = b"fgray.numerics"


class ResultStore:
    """Results of one model, by request kind. Picklable; safe for many writers, because equal names mean equal content."""

    def __init__(self, uri: str, fingerprint: str) -> None:
        self.uri, self.fingerprint = uri, fingerprint
        self._storage: Storage = open_storage(uri).child(fingerprint)

    def commit(self, kind: str, table: pa.Table, numerics: Mapping[str, Any]) -> str:
        """Write one part and return its unit id.

        Args:
            kind: request kind.
            table: columns item_id (binary[16]), error (string, null where the value counts), value and extras.
            numerics: the numerics class it was computed in, kept in the file's metadata.
        """
        name = unit_id(table["item_id"].to_pylist())
        meta = {**(table.schema.metadata or {}), NUMERICS_KEY: json.dumps(dict(numerics), sort_keys=True).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(meta), sink, compression="zstd", use_dictionary=False)
        self._storage.write_bytes(f"{kind}/part-{name}.parquet", sink.getvalue().to_pybytes())
        return name

    def errors_of(self, kind: str, ids: pa.ChunkedArray) -> dict[int, str] | None:
        """Return the errors (row of `ids` -> "stage: reason") of the part that holds exactly these items; None if there is none."""
        path = f"{kind}/part-{unit_id(ids.to_pylist())}.parquet"
        if not self._storage.exists(path):
            return None
        part = self._read(path, ["item_id", "error"])
        errors = dict(zip(part["item_id"].to_pylist(), part["error"].to_pylist(), strict=True))
        return {row: errors[item] for row, item in enumerate(ids.to_pylist()) if errors[item] is not None}

    def parts(self, kind: str) -> list[str]:
        """Return the paths of a kind's parts in the order in which duplicates are resolved (smallest unit id first)."""
        return sorted(info.path for info in self._storage.list(f"{kind}/") if info.path.endswith(".parquet"))

    def stored_ids(self, kind: str) -> pa.Array:
        """Return the ids of every stored item of a kind (quarantined ones too), each once."""
        tables = self._read_all(kind, lambda path: self._read(path, ["item_id"]))
        ids = pa.concat_arrays([chunk for table in tables for chunk in table["item_id"].chunks]) if tables else pa.array([], ID_TYPE)
        return pc.unique(ids.cast(ID_TYPE))

    def part_ids(self, path: str) -> pa.Array:
        """Return the item ids of one part."""
        return self._read(path, ["item_id"])["item_id"].combine_chunks().cast(ID_TYPE)

    def read(self, kind: str, ids: pa.Array) -> Results:
        """Read the results of `ids`, aligned with them.

        Raises:
            RunError: an item is not in the store.
        """

        def wanted(path: str) -> pa.Table:
            part = self._read(path)
            return part.filter(pc.is_in(part["item_id"], value_set=ids))  # here, so that the rest of the part is let go at once

        return Results.gather(kind, ids, [table for table in self._read_all(kind, wanted) if table.num_rows])

    def stream(self, kind: str, ids: pa.Array, rows: int) -> Iterator[Results]:
        """Read the results of `ids` in slices of `rows`; only the parts that a slice needs are in memory.

        Raises:
            RunError: an item is not in the store.
        """
        paths = self.parts(kind)
        lists = _in_parallel(self.part_ids, paths)
        stored = pa.concat_arrays(lists) if lists else pa.array([], ID_TYPE)
        places = pc.index_in(ids, value_set=stored)  # of equal ids the first, in the order of the parts
        if places.null_count:
            raise RunError(f"{places.null_count} of {len(ids)} {kind} results are missing from the store", fix="run the same command again")
        part_of = np.searchsorted(np.cumsum([len(part) for part in lists]), places.to_numpy(), side="right")
        for first in range(0, len(ids), rows):
            needed = np.unique(part_of[first : first + rows])
            yield Results.gather(kind, ids.slice(first, rows), [self._read(paths[part]) for part in needed])

    def numerics(self, kind: str) -> list[dict[str, Any]]:
        """Return the distinct numerics classes of a kind's parts."""
        found = set(self._read_all(kind, lambda path: (self._read(path, ["item_id"]).schema.metadata or {}).get(NUMERICS_KEY, b"{}")))
        return [json.loads(text) for text in sorted(found)]

    def _read_all(self, kind: str, read: Callable[[str], T]) -> list[T]:
        return _in_parallel(read, self.parts(kind))

    def _read(self, path: str, columns: list[str] | None = None) -> pa.Table:
        try:
            # Not `read_table`: its thread pool may abort a process that ends right after it (apache/arrow#34314).
            return pq.ParquetFile(pa.BufferReader(self._storage.read_bytes(path))).read(columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            where = f"{self._storage.uri}/{path}"
            raise RunError(f"damaged result part ({error})", where=where, fix="delete that file and run the same command again") from error


def _in_parallel(read: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    if not paths:
        return []
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(read, paths))


class Results:
    """Results aligned with a list of ids.

    Attributes:
        columns: name -> array of the part's other columns; "value" is float32 [N, D] for embeddings. Rows with an error are zero.
        errors: object array [N] of "stage: reason" or None.
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]], errors: list[str | None]) -> None:
        self.columns, self.errors = columns, errors

    @property
    def values(self) -> npt.NDArray[Any]:
        """Return the column "value"."""
        return self.columns["value"]

    @classmethod
    def gather(cls, kind: str, ids: pa.Array, tables: list[pa.Table]) -> Results:
        """Align stored rows with `ids`; of several rows for one item the first table's wins.

        Raises:
            RunError: an item has no row.
        """
        if len(ids) == 0:
            return cls({}, [])
        stored = pa.concat_tables(tables, promote_options="default") if tables else pa.table({"item_id": pa.array([], ID_TYPE)})
        # index_in returns the first match, and tables come in the order of their unit ids.
        rows = pc.index_in(ids, value_set=stored["item_id"].combine_chunks())
        if rows.null_count:
            raise RunError(f"{rows.null_count} of {len(ids)} {kind} results are missing from the store", fix="run the same command again")
        found = stored.take(rows)
        columns = {name: _to_numpy(found[name]) for name in found.column_names if name not in ("item_id", "error")}
        return cls(columns, found["error"].to_pylist())


def build_part(items: pa.Table, arrays: Mapping[str, npt.NDArray[Any]], errors: Mapping[int, str]) -> pa.Table:
    """Join a unit's items with its result arrays into a part.

    Args:
        items: the unit's items.
        arrays: name -> [n] or [n, D] array aligned with the items.
        errors: row -> "stage: reason" of the rows whose result does not count; their values become null.
    """
    failed = np.zeros(items.num_rows, bool)
    failed[list(errors)] = True
    columns: dict[str, pa.Array] = {"item_id": items["item_id"].combine_chunks().cast(ID_TYPE)}
    for name, array in arrays.items():
        mask = pa.array(failed)
        if array.ndim == 2:
            flat = pa.array(np.ascontiguousarray(array).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1], mask=mask)
        else:
            columns[name] = pa.array(array, mask=failed)
    columns["error"] = pa.array([errors.get(row) for row in range(items.num_rows)], pa.string())
    return pa.table(columns)


def _to_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        values = array.values.slice(array.offset * width, len(array) * width)
        if values.null_count:  # in rows that are null themselves; numpy would turn integers beside a null into floats
            values = values.fill_null(0)
        rows: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, width)
        if array.null_count:
            rows = np.where(array.is_null().to_numpy(zero_copy_only=False)[:, None], rows.dtype.type(0), rows)
        return rows
    if array.null_count:
        array = array.fill_null("" if pa.types.is_string(array.type) else False if pa.types.is_boolean(array.type) else 0)
    plain: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return plain
