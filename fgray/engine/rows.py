"""Tables that are appended to and read in slices; beyond a limit they lie in a temporary file, so that a plan may be larger than memory."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Any

import pyarrow as pa

MEMORY = 256 << 20  # bytes kept in memory
CHUNK = 1 << 16  # rows written and read at a time, unless said otherwise
CACHED = 16  # chunks that were read last: units are asked for in order, but for as many as a cluster has in its hands

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class Rows:
    """Rows of one schema."""

    def __init__(self, schema: pa.Schema, chunk: int | None = None) -> None:
        self.schema, self._chunk = schema, chunk or CHUNK
        self.num_rows = 0
        self._file: Any = SpooledTemporaryFile(MEMORY)  # noqa: SIM115 -- it lives as long as the rows
        self._starts: list[int] = []
        self._places: list[tuple[int, int]] = []  # of each chunk in the file: first byte, number of bytes
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def append(self, table: pa.Table) -> None:
        """Add rows at the end."""
        for start in range(0, table.num_rows, self._chunk):
            part = table.slice(start, self._chunk)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.schema, options=_OPTIONS) as writer:
                writer.write_table(part)
            data = sink.getvalue()
            self._starts.append(self.num_rows)
            self._places.append((self._file.seek(0, 2), data.size))
            self._file.write(data)
            self.num_rows += part.num_rows

    def slices(self) -> Iterator[pa.Table]:
        """Yield all rows in order, some ten thousand at a time."""
        for chunk in range(len(self._places)):
            yield self._read(chunk)

    def slice(self, start: int, length: int) -> pa.Table:
        """Return some rows."""
        stop = min(start + length, self.num_rows)
        found = []
        chunk = bisect_right(self._starts, start) - 1
        while start < stop:
            table, first = self._cached(chunk), self._starts[chunk]
            found.append(table.slice(start - first, stop - start))
            start = first + table.num_rows
            chunk += 1
        return pa.concat_tables(found) if found else self.schema.empty_table()

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one whole column, in memory."""
        return pa.chunked_array([chunk for table in self.slices() for chunk in table[name].chunks], self.schema.field(name).type)

    def _cached(self, chunk: int) -> pa.Table:
        if chunk not in self._cache:
            self._cache[chunk] = self._read(chunk)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(chunk)
        return self._cache[chunk]

    def _read(self, chunk: int) -> pa.Table:
        place, size = self._places[chunk]
        self._file.seek(place)
        with pa.ipc.open_stream(self._file.read(size)) as reader:
            return reader.read_all()
