"""Items addressed by content, and the units that carry them through the stages."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgray.engine.rows import Rows

ID_BYTES = 16  # of a sha256: 10^9 items collide with a probability of about 10^-21
ID_TYPE = pa.binary(ID_BYTES)


def item_id(kind: str, fingerprint: str, content: bytes) -> bytes:
    """Return the address of one result: what is asked (`kind`), of which model (`fingerprint`), about which content.

    The parts are joined with their lengths, so that no two different triples give the same bytes to hash.
    """
    return hashlib.sha256(_head(kind, fingerprint, len(content)) + content).digest()[:ID_BYTES]


def item_ids(kind: str, fingerprint: str, contents: Iterable[bytes]) -> pa.Array:
    """Return the `item_id` of many contents as an array of ``ID_TYPE``."""
    sha256, heads = hashlib.sha256, _Heads(kind, fingerprint)
    digests = b"".join([sha256(heads[len(content)] + content).digest() for content in contents])
    ids = np.frombuffer(digests, np.uint8).reshape(-1, 32)[:, :ID_BYTES].tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(ID_TYPE, len(ids) // ID_BYTES, [None, pa.py_buffer(ids)])


def ids_of_digests(kind: str, fingerprint: str, digests: pa.ChunkedArray | pa.Array, settings: bytes) -> pa.Array:
    """Return addresses as `item_id` does, of contents whose hashes are known: a hundred million of them within seconds.

    A content's hash says already which one it is; what else is asked for only has to turn it into another address, each time the same one.
    So the two hashes are exclusive-or'ed: equal addresses take equal contents, or two hashes that differ by that of two questions.

    Args:
        kind: what is asked.
        fingerprint: of which model.
        digests: sha256 of each content, binary[32] without nulls.
        settings: whatever else the result depends on.
    """
    array = _as_array(digests)
    words = np.frombuffer(array.buffers()[1] or b"", "<u8", 4 * len(array), 32 * array.offset).reshape(-1, 4)
    ids = words[:, :2] ^ np.frombuffer(item_id(kind, fingerprint, settings), "<u8")
    return pa.FixedSizeBinaryArray.from_buffers(ID_TYPE, len(array), [None, pa.py_buffer(ids.tobytes())])


class _Heads(dict[int, bytes]):
    """What is hashed before a content of some length."""

    def __init__(self, kind: str, fingerprint: str) -> None:
        self.parts = kind, fingerprint

    def __missing__(self, length: int) -> bytes:
        self[length] = _head(*self.parts, length)
        return self[length]


def _head(kind: str, fingerprint: str, length: int) -> bytes:
    parts = [len(part).to_bytes(8, "big") + part for part in (kind.encode(), fingerprint.encode())]
    return b"".join([*parts, length.to_bytes(8, "big")])


@dataclass(frozen=True)
class Unit:
    """A bag of items that is computed and committed as a whole.

    Attributes:
        kind: request kind, e.g. "embed_image"; results of different kinds are stored apart.
        items: at least the column ``item_id`` (binary[16]); the other columns are the stages' business.
    """

    kind: str
    items: pa.Table

    @property
    def id(self) -> str:
        """Return the hash of the sorted item ids (32 hex digits)."""
        return unit_id_of(self.items["item_id"])

    def halves(self) -> tuple[Unit, Unit]:
        """Split a unit of at least two items."""
        middle = self.items.num_rows // 2
        return Unit(self.kind, self.items.slice(0, middle)), Unit(self.kind, self.items.slice(middle))


def unit_id(item_ids: Iterable[bytes]) -> str:
    """Return the name of the bag of these items, whatever their order."""
    return hashlib.sha256(b"".join(sorted(item_ids))).hexdigest()[:32]


def unit_id_of(ids: pa.ChunkedArray | pa.Array) -> str:
    """Return `unit_id` of a column of ids without making an object of each."""
    array = _as_array(ids)
    data = array.buffers()[1] or b""
    words = np.frombuffer(data, ">u8")[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)
    ordered = words[np.lexsort((words[:, 1], words[:, 0]))]  # as bytes sort, since the words are big-endian
    return hashlib.sha256(ordered.tobytes()).hexdigest()[:32]


def missing_items(items: pa.Table, stored: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the rows of `items` whose id is not among `stored`, each id once."""
    ids = items["item_id"].combine_chunks()
    first = pc.index_in(pc.unique(ids), value_set=ids).cast(pa.int64())  # of equal ids the first row, in table order
    distinct = items.take(first)
    return distinct.filter(pc.invert(pc.is_in(distinct["item_id"], value_set=_as_array(stored))))


class Units(Sequence[Unit]):
    """Units that are cut from a table when they are asked for, so that a plan of a million of them takes little memory."""

    def __init__(self, kind: str, items: pa.Table | Rows, bounds: npt.NDArray[np.int64]) -> None:
        """Take a table and the row at which each unit begins, and the number of rows at the end."""
        self._parts: list[tuple[str, pa.Table | Rows, npt.NDArray[np.int64]]] = [(kind, items, bounds)]
        self._ends = [len(bounds) - 1]

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Unit]: ...
    def __getitem__(self, index: int | slice) -> Unit | list[Unit]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        part = bisect_right(self._ends, index)
        kind, items, bounds = self._parts[part]
        at = index - (self._ends[part - 1] if part else 0)
        return Unit(kind, items.slice(int(bounds[at]), int(bounds[at + 1] - bounds[at])))

    def __add__(self, other: Units) -> Units:
        joined = Units.__new__(Units)
        joined._parts = self._parts + other._parts
        joined._ends = [*self._ends, *(len(self) + end for end in other._ends)]
        return joined

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    @property
    def items(self) -> int:
        """Number of items of all units."""
        return sum(int(bounds[-1] - bounds[0]) for _, _, bounds in self._parts)


def make_units(kind: str, items: pa.Table | Rows, rows: int, group: str | None = None) -> Units:
    """Cut a table of distinct items into units of at most `rows`, in table order; none spans two values of column `group`."""
    starts = [] if group is None else _run_starts(items, group)
    stops = [*starts[1:], items.num_rows] if starts else [items.num_rows]
    cuts = [np.arange(start, stop, rows, dtype=np.int64) for start, stop in zip(starts or [0], stops, strict=True)]
    return Units(kind, items, np.concatenate([*cuts, [items.num_rows]]).astype(np.int64))


def _run_starts(items: pa.Table | Rows, group: str) -> list[int]:
    """Return the first row of each run of equal neighbours."""
    starts: list[int] = []
    done, last = 0, None
    for table in items.slices() if isinstance(items, Rows) else [items]:
        values = table[group].combine_chunks()
        if len(values):
            if not starts or values[0].as_py() != last:
                starts.append(done)
            changes = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy(zero_copy_only=False)
            starts += (np.flatnonzero(changes) + done + 1).tolist()
            done, last = done + len(values), values[-1].as_py()
    return starts


def _as_array(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
