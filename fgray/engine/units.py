"""Items addressed by content, and the units that carry them through the stages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

ID_BYTES = 16  # of a sha256: 10^9 items collide with a probability of about 10^-21
ID_TYPE = pa.binary(ID_BYTES)


def item_id(kind: str, fingerprint: str, content: bytes) -> bytes:
    """Return the address of one result: what is asked (`kind`), of which model (`fingerprint`), about which content.

    The parts are joined with their lengths, so that no two different triples give the same bytes to hash.
    """
    digest = hashlib.sha256()
    for part in (kind.encode(), fingerprint.encode(), content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()[:ID_BYTES]


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
        return unit_id(self.items["item_id"].to_pylist())

    def halves(self) -> tuple[Unit, Unit]:
        """Split a unit of at least two items."""
        middle = self.items.num_rows // 2
        return Unit(self.kind, self.items.slice(0, middle)), Unit(self.kind, self.items.slice(middle))


def unit_id(item_ids: Iterable[bytes]) -> str:
    """Return the name of the bag of these items, whatever their order."""
    return hashlib.sha256(b"".join(sorted(item_ids))).hexdigest()[:32]


def missing_items(items: pa.Table, stored: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the rows of `items` whose id is not among `stored`, each id once."""
    ids = items["item_id"].combine_chunks()
    first = pc.index_in(pc.unique(ids), value_set=ids).cast(pa.int64())  # of equal ids the first row, in table order
    distinct = items.take(first)
    return distinct.filter(pc.invert(pc.is_in(distinct["item_id"], value_set=_as_array(stored))))


def make_units(kind: str, items: pa.Table, rows: int, group: str | None = None) -> list[Unit]:
    """Cut a table of distinct items into units of at most `rows`, in table order; none spans two values of column `group`."""
    units = []
    for start, stop in _runs(items[group].to_pylist() if group else None, items.num_rows):
        units += [Unit(kind, items.slice(at, min(rows, stop - at))) for at in range(start, stop, rows)]
    return units


def _runs(values: Sequence[object] | None, length: int) -> list[tuple[int, int]]:
    """Return (start, stop) of each run of equal neighbours."""
    if values is None:
        return [(0, length)] if length else []
    starts = [i for i in range(length) if i == 0 or values[i] != values[i - 1]]
    return list(zip(starts, [*starts[1:], length][: len(starts)], strict=True))


def _as_array(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
