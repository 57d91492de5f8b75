"""What a reader of images gives to the shard builder."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from fgray.storage import Storage

READ_AHEAD = 16  # files; hides the latency of object stores


class Record(NamedTuple):
    """One image with what is known about it.

    Attributes:
        key: unique name, without a '.' after its last '/'.
        extension: of the encoding, lower case, without the dot ("jpg", "png", "webp", …).
        data: the encoded file, byte for byte.
        fields: metadata; becomes KEY.json in a tar, columns in Parquet.
    """

    key: str
    extension: str
    data: bytes
    fields: dict[str, Any]


class Source(Protocol):
    """A re-readable stream of records, always in the same order."""

    schema: pa.Schema | None
    """Columns of `Record.fields` in Parquet shards; None when not known beforehand (one JSON column then)."""

    def records(self) -> Iterator[Record]:
        """Yield every record."""
        ...


def read_in_order(storage: Storage, paths: Iterable[str]) -> Iterator[bytes]:
    """Yield the content of every file, in order, reading a few ahead in threads.

    Raises:
        NotFound: a file is missing.
        StorageError: a file cannot be read.
    """
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(READ_AHEAD // 2) as pool:
        try:
            for path in paths:
                waiting.append(pool.submit(storage.read_bytes, path))
                if len(waiting) >= READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def extension_of(data: bytes, name: str = "") -> str:
    """Return the extension that an encoded image should carry: by its first bytes, else that of `name`, else ``jpg``."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    if data.startswith(b"\x89PNG"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"GIF8"):
        return "gif"
    if data.startswith(b"BM"):
        return "bmp"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "tif"
    suffix = name.rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else ""
    return {"": "jpg", "jpeg": "jpg", "tiff": "tif"}.get(suffix, suffix)
