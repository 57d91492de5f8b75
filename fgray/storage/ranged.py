"""A read-only file over a storage, for readers that want to seek (Parquet, tar)."""

from __future__ import annotations

import io
from typing import Any

from fgray.storage.base import Storage


class RangedFile(io.RawIOBase):
    """Seekable view of one stored file; every read is a range request with the storage's own retries.

    Wrap it in `io.BufferedReader` when reads are small and sequential.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        super().__init__()
        self._storage, self._path = storage, path
        self._size = storage.stat(path).size
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in bytes and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._position)
        if length <= 0:
            return 0
        view[:length] = self._storage.read_bytes(self._path, self._position, length)
        self._position += length
        return length
