"""Files on this machine's file systems."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from fgray.errors import NotFound, StorageError
from fgray.storage.base import Blocks, FileInfo, Files, Storage, check_path

TEMPORARY = ".fgray-"  # files that a killed writer left behind begin so; they are never listed

_MEANING = {
    errno.ENOSPC: ("the disk is full", "free some space or choose another place"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another place"),
    errno.EFBIG: ("the file is larger than this file system or process may write", "raise the limit or choose another place"),
    errno.EACCES: ("permission denied", "check the owner and mode of the file and its folder"),
    errno.EPERM: ("permission denied", "check the owner and mode of the file and its folder"),
    errno.EROFS: ("the file system is read-only", "choose another place"),
    errno.EISDIR: ("this is a folder, not a file", "name a file"),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "check the path"),
    errno.EEXIST: ("a part of this path is a file, not a folder", "check the path"),  # mkdir's name for it
    errno.ENAMETOOLONG: ("the file name is too long", "shorten it"),
    errno.EMFILE: ("too many open files", "raise `ulimit -n`"),
}


class LocalStorage(Storage):
    """A folder. It is made when something is first written below it."""

    is_local = True

    def __init__(self, root: str) -> None:
        self.uri = str(Path(root).expanduser().absolute())
        self._root = Path(os.path.normpath(self.uri))
        self.uri = str(self._root)

    def _full(self, path: str) -> Path:
        return self._root / check_path(path, self.uri)

    def read_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Storage.read_bytes`."""
        if length is not None:
            return self._read_blocks(path, [(offset, length)])[0]
        with self._errors(path), self._full(path).open("rb") as file:
            file.seek(offset)
            return file.read()

    def _read_blocks(self, path: str, blocks: Sequence[tuple[int, int]]) -> Blocks:
        results = []
        with self._errors(path), self._full(path).open("rb") as file:
            for offset, length in blocks:
                file.seek(offset)
                data = file.read(length)
                if len(data) != length:
                    raise short_read(self.address(path), offset, length)
                results.append(data)
        return results

    def write_bytes(self, path: str, data: bytes | memoryview) -> None:
        """See `Storage.write_bytes`."""
        with self.writing(path) as file:
            file.write(data)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """See `Storage.writing`: a temporary file beside it, synced, then renamed over it."""
        with self._errors(path), self._temporary(path) as (temporary, file):
            yield file
            _sync(file)
            temporary.replace(self._full(path))
            _sync_folder(temporary.parent)

    def create_bytes(self, path: str, data: bytes) -> bool:
        """See `Storage.create_bytes`: a hard link to a whole, synced temporary file fails if the name is taken."""
        with self._errors(path), self._temporary(path) as (temporary, file):
            file.write(data)
            _sync(file)
            try:
                os.link(temporary, self._full(path))
            except FileExistsError:
                return False
            _sync_folder(temporary.parent)
            return True

    @contextlib.contextmanager
    def _temporary(self, path: str) -> Iterator[tuple[Path, IO[bytes]]]:
        target = self._full(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                yield temporary, file
        finally:
            temporary.unlink(missing_ok=True)

    def stat(self, path: str) -> FileInfo:
        """See `Storage.stat`."""
        with self._errors(path):
            full = self._full(path)
            status = full.stat()
            if not full.is_file():
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            return FileInfo(path, status.st_size, str(status.st_mtime_ns))

    def exists(self, path: str) -> bool:
        """See `Storage.exists`."""
        with self._errors(path):
            return self._full(path).is_file()

    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """See `Storage.list`; links to folders are followed, except into a folder that is already being listed."""
        prefix = prefix.rstrip("/")
        folder = self._full(prefix) if prefix else self._root
        with self._errors(prefix):
            found = list(_walk(folder, prefix, frozenset())) if folder.is_dir() else []
        yield from sorted(found)

    def leftovers(self, older_than: float) -> Files:
        """See `Storage.leftovers`."""
        limit = time.time() - older_than
        with self._errors(""):
            found = list(_walk(self._root, "", frozenset(), temporary=True)) if self._root.is_dir() else []
        return sorted(info for info in found if int(info.version) < limit * 1e9)

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._errors(path):
            self._full(path).unlink(missing_ok=True)

    def child(self, path: str) -> Storage:
        """See `Storage.child`."""
        return LocalStorage(str(self._full(path.rstrip("/"))))

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound("no such file", where=self.address(path), fix="check the path") from error
        except OSError as error:
            raise local_error(error, self.address(path)) from error


def local_error(error: OSError, address: str) -> StorageError:
    """Return what an error of this machine's file systems means, and the remedy."""
    what, fix = _MEANING.get(error.errno or 0, (f"input/output error ({error.strerror or error})", "check the disk"))
    return StorageError(what, where=address, fix=fix)


def is_local_error(error: OSError) -> bool:
    """Return whether an error is one of file systems (a full disk), not of the network."""
    return error.errno in _MEANING


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]], temporary: bool = False) -> Iterator[FileInfo]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir():
                yield from _walk(Path(entry.path), path, above | {here}, temporary)
            elif entry.is_file() and entry.name.startswith(TEMPORARY) == temporary:
                info = entry.stat()
                yield FileInfo(path, info.st_size, str(info.st_mtime_ns))


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Without it a power cut may undo the rename, although the content is on the disk.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def short_read(address: str, offset: int, length: int) -> StorageError:
    """Return the error for a file that ends before a range does."""
    fix = "it was cut off or replaced: write or copy it again"
    return StorageError(f"the file ends before byte {offset + length}", where=address, fix=fix)
