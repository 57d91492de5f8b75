"""The result store: ``MODEL_FP/KIND/part-UNIT.parquet``, one file per unit, written whole in one put."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.engine.idsets import IdTable, Places, locate
from fgray.engine.part_index import FOLDER, PARTS, Listed, read_indexes, write_index
from fgray.engine.units import ID_TYPE, unit_id_of
from fgray.errors import RunError
from fgray.storage import FileInfo, RangedFile, Storage, open_storage

S = TypeVar("S")
T = TypeVar("T")
READ_THREADS = 16  # parts are small and latency dominates on S3
READ_AHEAD = 4 * READ_THREADS  # parts in memory at a time
WHOLE_BYTES = 1 << 20  # smaller parts are read in one request
READ_BYTES = 256 << 10  # of a larger part's footer and ids at a time
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
        name = unit_id_of(table["item_id"])
        meta = {**(table.schema.metadata or {}), NUMERICS_KEY: numerics_text(numerics).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(meta), sink, compression="zstd", use_dictionary=False)
        self._storage.write_bytes(f"{kind}/part-{name}.parquet", sink.getvalue().to_pybytes())
        return name

    def errors_of(self, kind: str, ids: pa.ChunkedArray) -> dict[int, str] | None:
        """Return the errors (row of `ids` -> "stage: reason") of the part that holds exactly these items; None if there is none."""
        path = f"{kind}/part-{unit_id_of(ids)}.parquet"
        if not self._storage.exists(path):
            return None
        part = self._read(path, ["item_id", "error"])
        errors = dict(zip(part["item_id"].to_pylist(), part["error"].to_pylist(), strict=True))
        return {row: errors[item] for row, item in enumerate(ids.to_pylist()) if errors[item] is not None}

    def parts(self, kind: str) -> list[str]:
        """Return the paths of a kind's parts in the order in which duplicates are resolved (smallest unit id first)."""
        return sorted(info.path for info in self._storage.list(f"{kind}/") if _part_name(info.path))

    def listed(self, kind: str) -> Iterator[Listed]:
        """Yield the ids of every part of a kind, some parts at a time, in no particular order.

        Index files tell most of it. The other parts are opened, and where they are many, listed in further index files.

        Raises:
            RunError: a part is damaged.
        """
        yield from self._listed(kind, *self._listing(kind))

    def placed(self, kind: str) -> tuple[list[str], IdTable]:
        """Return the paths of a kind's parts, smallest unit id first, and every stored id with the number of its part.

        Raises:
            RunError: a part is damaged.
        """
        parts, indexes = self._listing(kind)
        number = {name: at for at, name in enumerate(sorted(parts))}
        table = IdTable()
        for listed in self._listed(kind, parts, indexes):
            table.add(listed.ids, np.repeat([number[name] for name in listed.names], listed.counts))
        return [parts[name].path for name in number], table

    def _listing(self, kind: str) -> tuple[dict[str, FileInfo], list[str]]:
        """Return unit id -> part, and the paths of the index files."""
        parts, indexes = {}, []
        for info in self._storage.list(f"{kind}/"):
            if name := _part_name(info.path):
                parts[name] = info
            elif info.path.startswith(f"{kind}/{FOLDER}/"):
                indexes.append(info.path)
        return parts, indexes

    def _listed(self, kind: str, parts: Mapping[str, FileInfo], indexes: Sequence[str]) -> Iterator[Listed]:
        left = dict(parts)
        for listed in read_indexes(self._storage, indexes, parts.keys()):
            for name in listed.names:
                left.pop(name, None)
            yield listed
        rest = list(left.items())
        for start in range(0, len(rest), PARTS):
            some = rest[start : start + PARTS]
            listed = Listed.join([(name, *found) for (name, _), found in zip(some, _in_parallel(self._contents, some), strict=True)])
            if len(some) == PARTS:
                self.note(kind, listed)
            yield listed

    def note(self, kind: str, listed: Listed) -> None:
        """Keep what some committed parts hold in an index file, so that the next plan need not open them."""
        write_index(self._storage, kind, listed)

    def trim(self, kind: str, paths: Collection[str]) -> None:
        """Let the index files list only these parts; the others are about to go."""
        indexes = self._listing(kind)[1]
        kept = read_indexes(self._storage, indexes, {_part_name(path) for path in paths})
        written = {write_index(self._storage, kind, listed) for listed in kept}
        for path in set(indexes) - written:
            self._storage.delete(path)

    def stored_ids(self, kind: str) -> pa.Array:
        """Return the ids of every stored item of a kind (quarantined ones too), each once; `listed` needs less memory."""
        return pc.unique(pa.concat_arrays([pa.array([], ID_TYPE), *(listed.ids for listed in self.listed(kind))]))

    def _contents(self, part: tuple[str, FileInfo]) -> tuple[str, pa.Array]:
        """Return the numerics class of a part (as JSON) and its ids; of a large part only those bytes are read."""
        info = part[1]
        with self._damage(info.path):
            whole = pa.BufferReader(self._storage.read_bytes(info.path)) if info.size < WHOLE_BYTES else None
            file = pq.ParquetFile(whole or io.BufferedReader(RangedFile(self._storage, info.path), READ_BYTES))
            ids = file.read(["item_id"], use_threads=False)["item_id"].combine_chunks().cast(ID_TYPE)
            return (file.schema_arrow.metadata or {}).get(NUMERICS_KEY, b"{}").decode(), ids

    def read(self, kind: str, ids: pa.Array) -> Results:
        """Read the results of `ids`, aligned with them.

        Raises:
            RunError: an item is not in the store.
        """
        paths = self.parts(kind)
        some = (paths[first : first + READ_AHEAD] for first in range(0, len(paths), READ_AHEAD))
        return Results.gather(kind, ids, (part for few in some for part in _in_parallel(self._read, few)))

    def stream(self, kind: str, ids: pa.Array, rows: int) -> Iterator[Results]:
        """Read the results of `ids` in slices of `rows`; only the parts that a slice needs are in memory.

        Raises:
            RunError: an item is not in the store.
        """
        paths, stored = self.placed(kind)
        asked = IdTable()
        asked.add(ids)
        part_of = locate(asked, stored)  # of several parts with an item the smallest unit id
        if missing := int(np.count_nonzero(part_of < 0)):
            raise RunError(f"{missing} of {len(ids)} {kind} results are missing from the store", fix="run the same command again")
        for first in range(0, len(ids), rows):
            needed = np.unique(part_of[first : first + rows])
            yield Results.gather(kind, ids.slice(first, rows), (self._read(paths[part]) for part in needed))

    def numerics(self, kind: str) -> list[dict[str, Any]]:
        """Return the distinct numerics classes of a kind's parts."""
        return [json.loads(text) for text in sorted({text for listed in self.listed(kind) for text in listed.numerics})]

    def _read(self, path: str, columns: list[str] | None = None) -> pa.Table:
        with self._damage(path):
            # Not `read_table`: its thread pool may abort a process that ends right after it (apache/arrow#34314).
            return pq.ParquetFile(pa.BufferReader(self._storage.read_bytes(path))).read(columns, use_threads=False)

    @contextlib.contextmanager
    def _damage(self, path: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            where = f"{self._storage.uri}/{path}"
            raise RunError(f"damaged result part ({error})", where=where, fix="delete that file and run the same command again") from error


def numerics_text(numerics: Mapping[str, Any]) -> str:
    """Return a numerics class as parts and index files keep it."""
    return json.dumps(dict(numerics), sort_keys=True)


def _part_name(path: str) -> str:
    """Return the unit id of a part's path, or "" for other files."""
    name = path.rpartition("/")[2]
    return name[len("part-") : -len(".parquet")] if name.startswith("part-") and name.endswith(".parquet") else ""


def _in_parallel(read: Callable[[S], T], paths: Sequence[S]) -> list[T]:
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
    def gather(cls, kind: str, ids: pa.Array, tables: Iterable[pa.Table]) -> Results:
        """Align stored rows with `ids`, a table at a time; of several rows for one item the first table's wins.

        Raises:
            RunError: an item has no row.
        """
        if len(ids) == 0:
            return cls({}, [])
        distinct = pc.unique(ids)
        if len(distinct) < len(ids):
            once, rows = cls.gather(kind, distinct, tables), pc.index_in(ids, value_set=distinct).to_numpy()
            return cls({name: column[rows] for name, column in once.columns.items()}, [once.errors[row] for row in rows])
        places, filled = Places(ids), np.zeros(len(ids), bool)
        columns: dict[str, npt.NDArray[Any]] = {}
        errors = np.full(len(ids), None, object)
        for table in tables:
            rows, where = places.of(table["item_id"].combine_chunks().cast(ID_TYPE))
            rows, where = rows[~filled[where]], where[~filled[where]]
            if not len(rows):
                continue
            found = table.take(pa.array(rows))
            for name in found.column_names:
                if name not in ("item_id", "error"):
                    _fill(columns, name, where, _to_numpy(found[name]), len(ids))
            errors[where] = found["error"].to_numpy()
            filled[where] = True
        if missing := int(np.count_nonzero(~filled)):
            raise RunError(f"{missing} of {len(ids)} {kind} results are missing from the store", fix="run the same command again")
        return cls(columns, errors.tolist())


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


def _fill(columns: dict[str, npt.NDArray[Any]], name: str, where: npt.NDArray[np.int64], values: npt.NDArray[Any], rows: int) -> None:
    """Put values into a column, which is made when the first of them come; rows without one are 0, False or empty."""
    if name not in columns:
        columns[name] = np.full(rows, "", object) if values.dtype == object else np.zeros((rows, *values.shape[1:]), values.dtype)
    columns[name][where] = values


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
