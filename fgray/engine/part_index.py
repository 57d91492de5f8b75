"""What the parts of a store hold, without opening them: index files that list the item ids of a thousand parts each.

A plan needs every stored id, and 10^8 items lie in 10^5 parts or more. ``KIND/index/HASH.idx`` (Parquet) has a row per part: its name,
its numerics class, its ids in their order. An index file is written whole in one put and named by what it lists. It only saves reading:
a part counts when the listing shows it, and a part that no index file lists is opened. So index files may be absent, overlap, list
parts that are gone, or be deleted at any time, and writers need not know of each other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fgray.engine.units import ID_TYPE
from fgray.storage import Storage

FOLDER = "index"
PARTS = 1024  # parts of an index file

_SCHEMA = pa.schema([("part", pa.string()), ("numerics", pa.string()), ("ids", pa.large_list(ID_TYPE))])

_log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """The contents of some parts.

    Attributes:
        names: unit ids of the parts.
        numerics: JSON of their numerics classes.
        ids: the item ids of all of them, one part after the other.
        counts: int64, how many each part has.
    """

    names: list[str]
    numerics: list[str]
    ids: pa.Array
    counts: npt.NDArray[np.int64]

    @classmethod
    def join(cls, parts: Sequence[tuple[str, str, pa.Array]]) -> Listed:
        """Join (name, numerics, ids) of single parts."""
        ids = pa.concat_arrays([ids for _, _, ids in parts]) if parts else pa.array([], ID_TYPE)
        counts = np.array([len(ids) for _, _, ids in parts], np.int64)
        return cls([name for name, _, _ in parts], [numerics for _, numerics, _ in parts], ids, counts)

    def table(self) -> pa.Table:
        """Return the rows of an index file."""
        offsets = pa.array(np.concatenate([[0], np.cumsum(self.counts)]), pa.int64())
        lists = pa.LargeListArray.from_arrays(offsets, self.ids)
        return pa.table([pa.array(self.names, pa.string()), pa.array(self.numerics, pa.string()), lists], schema=_SCHEMA)


def write_index(storage: Storage, kind: str, listed: Listed) -> str:
    """Write one index file and return its path."""
    sink = pa.BufferOutputStream()
    pq.write_table(listed.table(), sink, compression="none", use_dictionary=["numerics"], write_statistics=False)  # ids do not compress
    name = hashlib.sha256("".join(sorted(listed.names)).encode()).hexdigest()[:32]
    path = f"{kind}/{FOLDER}/{name}.idx"
    storage.write_bytes(path, sink.getvalue())
    return path


def read_indexes(storage: Storage, paths: Sequence[str], live: Collection[str]) -> Iterator[Listed]:
    """Yield what index files list of the parts that are there, each part once."""
    seen: set[str] = set()
    for path in paths:
        try:
            table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path))).read(use_threads=False).select(_SCHEMA.names)
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            _log.warning("an index file is damaged and passed over: %s [%s]", error, storage.address(path))
            continue
        names = table["part"].to_pylist()
        wanted = [name in live and name not in seen for name in names]
        seen.update(names)
        if not any(wanted):
            continue
        if not all(wanted):
            table = table.filter(pa.array(wanted))
        lists = table["ids"].combine_chunks()
        counts = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        yield Listed(table["part"].to_pylist(), table["numerics"].to_pylist(), lists.flatten().cast(ID_TYPE), counts)
