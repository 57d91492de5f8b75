"""Weights on a cluster: pulled from outside once by whoever is first, kept in the run's store, read from there once per node.

A job's processes are told the place in the store by ``FGRAY_WEIGHTS``; without it nothing here does anything.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fgray.errors import NotFound, StorageError
from fgray.models.fingerprint import file_sha256
from fgray.storage import Storage, open_storage

VARIABLE = "FGRAY_WEIGHTS"


def stage() -> Storage | None:
    """Return where the run keeps weights that came from outside, or None where each process may fetch them itself."""
    uri = os.environ.get(VARIABLE)
    return open_storage(uri) if uri else None


def staged_file(place: Storage, name: str, fetch: Callable[[], Path]) -> str:
    """Return the address of a published file in the store, putting it there where it is not.

    Args:
        place: see `stage`.
        name: what it is published as.
        fetch: downloads it and returns where it lies.

    Raises:
        StorageError: the store cannot be read or written.
    """
    (file,) = _staged(place, name, lambda: {"weights": fetch()}).values()
    return f"{place.uri}/{file}"


def staged_folder(place: Storage, name: str, fetch: Callable[[], Path]) -> Path:
    """Return a folder on this node with the files of a published one, fetching them from outside only where the store has none.

    Raises:
        StorageError: the store cannot be read or written.
    """
    files = _staged(place, name, lambda: {path.name: path for path in sorted(fetch().iterdir()) if path.is_file()})
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    folder = _cache() / "folders" / digest[:32]
    with _alone(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for own, file in files.items():
            if Path(own).name != own:
                raise StorageError(f"'{own}' cannot be a file of a model", where=place.uri, fix="remove its folder 'names'")
            if not (folder / own).exists():
                _write(folder / own, read_once(place, file))
    return folder


def read_once(storage: Storage, path: str) -> bytes:
    """Return a file's content; of one in S3, the processes of a job that share a node share one download.

    Raises:
        NotFound: there is no such file.
        StorageError: it cannot be read.
    """
    if storage.is_local or not os.environ.get(VARIABLE):
        return storage.read_bytes(path)
    version = storage.stat(path)
    key = hashlib.sha256(f"{storage.uri}/{path}\n{version.version}\n{version.size}".encode()).hexdigest()
    copy = _cache() / "files" / key[:32]
    with _alone(copy):
        if not copy.exists() or copy.stat().st_size != version.size:
            data = storage.read_bytes(path)
            _write(copy, data)
            return data
    return copy.read_bytes()


def _staged(place: Storage, name: str, fetch: Callable[[], dict[str, Path]]) -> dict[str, str]:
    """Return the names in the store of what a published name stands for: own name -> SHA256.SUFFIX."""
    index = f"names/{hashlib.sha256(name.encode()).hexdigest()}.json"
    try:
        known: dict[str, str] = json.loads(place.read_bytes(index))["files"]
        return known
    except NotFound:
        pass
    files = {}
    for own, path in fetch().items():
        files[own] = file = file_sha256(path) + PurePosixPath(path.name).suffix
        if not place.exists(file):
            place.write_bytes(file, path.read_bytes())
    place.write_bytes(index, json.dumps({"name": name, "files": files}, sort_keys=True).encode())  # last: what it names is there
    return files


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fgray"


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of the node at a time make a file or folder."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
