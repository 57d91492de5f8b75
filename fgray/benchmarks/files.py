"""Files of official layouts: reading, finding images, and joining items that share an image."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

from fgray.data.index import MANIFEST, ImageIndex, image_key, open_images
from fgray.errors import DataError, NotFound
from fgray.storage import Storage, open_storage


def read_bytes(storage: Storage, path: str, looked_for: str) -> bytes:
    """Return a file of the official layout.

    Raises:
        DataError: it is not there; the message says what was looked for.
    """
    try:
        return storage.read_bytes(path)
    except NotFound as error:
        raise DataError(f"{looked_for} not found", where=f"{storage.uri}/{path}", fix="point root at the folder that holds it") from error


def text_lines(data: bytes, where: str) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return [line for line in data.decode("utf-8").splitlines() if line]
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=where, fix="save it as UTF-8") from error


def parse_json(data: bytes, where: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it is not JSON, or an object repeats a key (json would keep the last one silently).
    """
    try:
        return json.loads(data, object_pairs_hook=lambda pairs: _unique_keys(pairs, where))
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=where, fix="download the file again") from error


def _unique_keys(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in found if names.count(name) > 1)
        raise DataError(f"duplicate key '{repeated}'", where=where, fix="keep one of the two entries")
    return found


def read_json(storage: Storage, path: str, looked_for: str = "file") -> Any:
    """Read a JSON file; the errors are those of `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(storage, path, looked_for), f"{storage.uri}/{path}")


def find_file(storage: Storage, paths: Sequence[str], looked_for: str, fix: str) -> str:
    """Return the first of `paths` that exists.

    Raises:
        DataError: none does; the message lists them.
    """
    for path in paths:
        if storage.exists(path):
            return path
    raise DataError(f"{looked_for} not found, looked for {', '.join(paths)}", where=storage.uri, fix=fix)


def resolve(storage: Storage, location: str) -> Storage:
    """Return the folder that an option names: a URI or absolute path, or else relative to the benchmark's root."""
    if "://" in location:
        return open_storage(location)
    scheme, mark, base = storage.uri.rpartition("://")
    return open_storage(location if location.startswith("/") else scheme + mark + posixpath.normpath(posixpath.join(base, location)))


def find_images(storage: Storage, option: str | None, folders: Sequence[str], first: str) -> str:
    """Return the folder in which the images lie, as files or packed by ``fgray shards build``.

    Args:
        storage: the benchmark's root.
        option: the folder that the user names, or None to try `folders` under the root.
        folders: usual names, in order of preference; "" is the root itself.
        first: path of one image under that folder.

    Raises:
        DataError: the image is in none of them.
    """
    candidates = [resolve(storage, option)] if option is not None else [storage.child(name) if name else storage for name in folders]
    for candidate in candidates:
        if candidate.exists(first) or candidate.exists(MANIFEST):
            return candidate.uri
    tried = option if option is not None else ", ".join(name or "the folder itself" for name in folders)
    raise DataError(f"image {first} not found, looked in {tried}", where=storage.uri, fix="put the images there or set images: FOLDER")


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of a file's bytes as hex."""
    return hashlib.sha256(data).hexdigest()


def join_path(folder: str, path: str, where: str) -> str:
    """Return ``folder/path`` normalised; `path` comes from an annotation file.

    Raises:
        DataError: it leads out of the benchmark's root.
    """
    joined = posixpath.normpath(posixpath.join(folder, path.replace("\\", "/")))
    if joined.startswith(("..", "/")) or joined == ".":
        raise DataError(f"image path '{path}' leads out of the benchmark's folder", where=where, fix="correct the annotation file")
    return joined


def open_case_images(root: str, cache: str, files: Iterable[str], fix: str) -> ImageIndex:
    """Open the images that annotation files name and make sure that every one is there.

    Args:
        root: folder or prefix that the paths are relative to.
        cache: where the index of a plain folder is kept.
        files: image paths relative to `root`, with extension; repeated ones are fine.
        fix: what the user does about a missing image.

    Raises:
        DataError: an image is missing (the message names the first and counts the rest), or two files share a key.
    """
    by_key: dict[str, str] = {}
    for path in files:
        key = image_key(path)
        other = by_key.setdefault(key, path)
        if other != path:
            raise DataError(f"images '{other}' and '{path}' have the same key", where=root, fix="give them different stems")
    try:
        return open_images(root, cache, keys=list(by_key))
    except DataError as error:
        present = _present_keys(open_storage(root))
        missing = [path for key, path in by_key.items() if key not in present]
        if not missing:
            raise
        raise DataError(f"{len(missing)} of {len(by_key)} images are missing, the first is {missing[0]}", where=root, fix=fix) from error


def _present_keys(storage: Storage) -> set[str]:
    if storage.exists(MANIFEST):
        return set(ImageIndex.load(storage.uri, storage).keys.to_pylist())
    return {image_key(info.path) for info in storage.list()}


def connected(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Join names that stand in a common group, directly or through others.

    Returns:
        name -> name of its component: the first name of it that was met.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        top = name
        while parent[top] != top:
            top = parent[top]
        while parent[name] != top:  # shorten the path for the next look-up
            parent[name], name = top, parent[name]
        return top

    order: dict[str, int] = {}
    for group in groups:
        for name in group:
            parent.setdefault(name, name)
            order.setdefault(name, len(order))
        for name in group[1:]:
            first, second = sorted((find(group[0]), find(name)), key=order.__getitem__)
            parent[second] = first
    return {name: find(name) for name in parent}
