"""One face for local folders and S3: read, list, commit whole objects, retry what can be retried."""

from __future__ import annotations

from fgray.errors import StorageError
from fgray.storage.base import FileInfo, Storage
from fgray.storage.local import LocalStorage
from fgray.storage.ranged import RangedFile

__all__ = ["FileInfo", "RangedFile", "Storage", "open_storage"]


def open_storage(uri: str) -> Storage:
    """Return the storage rooted at `uri`. Nothing is read or created yet.

    Args:
        uri: a path (absolute or relative to the working directory), ``file:///path``, or ``s3://bucket/prefix``.

    Raises:
        StorageError: the scheme is unknown, the bucket's name is missing, or the URI holds a secret.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalStorage(uri)
    if scheme == "file":
        return LocalStorage(rest)
    if scheme == "s3":
        from fgray.storage.s3 import S3Storage  # pyarrow's import takes a fifth of a second

        return S3Storage(rest)
    raise StorageError(f"no storage speaks '{scheme}://'", fix="give a local path, file://… or s3://bucket/prefix")
