"""What every storage offers. Paths are relative to its root and use '/'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, NamedTuple

from fgray.errors import StorageError

# Two ranges closer than this are read as one: a request costs about as much time as this many bytes.
COALESCE_GAP = 256 << 10
# A coalesced read does not grow beyond this, so that large batches are still read in parallel.
COALESCE_LIMIT = 16 << 20


Blocks = list[bytes]  # an alias, because `Storage.list` hides the built-in name inside its class


class FileInfo(NamedTuple):
    """One file of a listing.

    Attributes:
        path: relative to the storage's root, with '/'.
        size: in bytes.
        version: text that changes when the file is written again (its modification time in nanoseconds).
    """

    path: str
    size: int
    version: str


Files = list[FileInfo]  # for the same reason


class Storage(ABC):
    """A folder or S3 prefix. Picklable; connections are made when first used.

    Every method raises `StorageError` with one line that says what to do when the store refuses or stays unreachable.

    Attributes:
        uri: normalised address of the root: an absolute path, or ``s3://bucket/prefix``, without a final '/'.
        is_local: whether it is on this machine's file systems.
    """

    uri: str
    is_local: bool

    @abstractmethod
    def read_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset` on; None means up to the end.

        Raises:
            NotFound: there is no such file.
            StorageError: the file ends before offset + length, or it cannot be read.
        """

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Blocks:
        """Return the bytes of every (offset, length), in the order asked for; near ranges share a request.

        Raises:
            NotFound: there is no such file.
            StorageError: the file ends before the end of a range, or it cannot be read.
        """
        groups = coalesce(ranges)
        blocks = self._read_blocks(path, [(start, stop - start) for start, stop, _ in groups])
        results: Blocks = [b""] * len(ranges)
        for (start, _, members), block in zip(groups, blocks, strict=True):
            for member in members:
                offset, length = ranges[member]
                results[member] = block[offset - start : offset - start + length]
        return results

    def _read_blocks(self, path: str, blocks: Sequence[tuple[int, int]]) -> Blocks:
        return [self.read_bytes(path, offset, length) for offset, length in blocks]

    @abstractmethod
    def write_bytes(self, path: str, data: bytes | memoryview) -> None:
        """Write a whole object: a reader sees the old content or all of the new one, also when the writer is killed."""

    @abstractmethod
    def writing(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Return a file to write an object of any size into; it is committed whole when the body ends, and dropped when it raises."""

    @abstractmethod
    def create_bytes(self, path: str, data: bytes) -> bool:
        """Write a whole object only if it is absent; return False if it was there.

        Exact on local file systems. On S3 it is exact where the store honours ``If-None-Match``; other stores may let
        two writers that start at the same moment both succeed, so nothing's correctness may rest on it.
        """

    @abstractmethod
    def stat(self, path: str) -> FileInfo:
        """Return size and version of one file; S3 may tell the time less exactly here than in `list`.

        Raises:
            NotFound: there is no such file.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether there is such a file (a folder does not count)."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """Yield all files below the folder `prefix`, at any depth, sorted by path; nothing if there is no such folder."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file; an absent one is fine."""

    def leftovers(self, older_than: float) -> Files:
        """Return half-written files of writers that were killed, at least `older_than` seconds old; `list` never shows them."""
        return []  # S3 shows an object only when it is whole; a bucket's lifecycle rules remove unfinished uploads

    @abstractmethod
    def child(self, path: str) -> Storage:
        """Return the storage rooted at a folder below this one (which need not exist)."""

    def address(self, path: str) -> str:
        """Return the full address of a file, for messages."""
        return f"{self.uri}/{path}" if path else self.uri

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"


def coalesce(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """Join near (offset, length) ranges into blocks (start, stop, positions in `ranges`), in order of offset."""
    groups: list[tuple[int, int, list[int]]] = []
    for position in sorted(range(len(ranges)), key=lambda i: ranges[i]):
        offset, length = ranges[position]
        if groups:
            start, stop, members = groups[-1]
            if offset <= stop + COALESCE_GAP and max(stop, offset + length) - start <= max(COALESCE_LIMIT, stop - start):
                members.append(position)
                groups[-1] = (start, max(stop, offset + length), members)
                continue
        groups.append((offset, offset + length, [position]))
    return groups


def check_path(path: str, root: str) -> str:
    """Return `path` if it stays below the root.

    Raises:
        StorageError: it is absolute, empty, or climbs with '..' (an index made elsewhere must not reach other files).
    """
    parts = path.split("/")
    if not path or "" in parts or "." in parts or ".." in parts or "\0" in path:
        raise StorageError(f"'{path}' is not a path below its root", where=root, fix="use relative paths with '/', without '..' and '//'")
    return path
