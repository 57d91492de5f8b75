"""WebDataset tars (https://github.com/webdataset/webdataset): files of one sample share the name up to the first '.'."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from fgray.data.decode import IMAGE_EXTENSIONS
from fgray.data.importers.base import Record, extension_of
from fgray.data.index import image_key
from fgray.errors import DataError
from fgray.storage import RangedFile, Storage

_log = logging.getLogger(__name__)
TEXTS = ("txt", "text", "caption", "cls")  # parts that become fields under their own name
READ_AHEAD = 8 << 20


class WebDatasetSource:
    """Every image of WebDataset tars, in order; ``.json`` gives its entries as fields, ``.txt`` and ``.cls`` their text.

    A sample with several images (``a.left.jpg``, ``a.right.jpg``) gives one record each, with the keys ``a%2Eleft`` and
    ``a%2Eright``. Other parts are left out, which is logged once.

    Args:
        storage: where the tars lie.
        paths: of the tars.
    """

    schema = None

    def __init__(self, storage: Storage, paths: Sequence[str]) -> None:
        self._storage, self._paths = storage, sorted(paths)
        self._left_out: set[str] = set()

    def records(self) -> Iterator[Record]:
        """Yield every image.

        Raises:
            DataError: a tar is damaged, or a ``.json`` part is not a JSON object.
        """
        for path in self._paths:
            stem: str | None = None
            parts: list[tuple[str, bytes]] = []
            for name, data in self._members(path):
                here = _stem(name)
                if here != stem and parts:
                    yield from self._sample(path, parts)
                    parts = []
                stem = here
                parts.append((name, data))
            yield from self._sample(path, parts)

    def _members(self, path: str) -> Iterator[tuple[str, bytes]]:
        try:
            with tarfile.open(fileobj=io.BufferedReader(RangedFile(self._storage, path), READ_AHEAD), mode="r:") as tar:
                for member in tar:
                    if member.isfile() and not member.name.rpartition("/")[2].startswith((".", "__")):
                        content = tar.extractfile(member)
                        data = content.read() if content else b""
                        if len(data) != member.size:
                            raise tarfile.ReadError(f"'{member.name}' is cut off")
                        yield member.name.removeprefix("./"), data
        except tarfile.TarError as error:
            raise DataError(f"not a whole tar file ({error})", where=self._storage.address(path), fix="copy it again") from error

    def _sample(self, path: str, parts: Sequence[tuple[str, bytes]]) -> Iterator[Record]:
        fields: dict[str, Any] = {}
        images = []
        for name, data in parts:
            extension = name[len(_stem(name)) + 1 :].lower()
            if extension.rpartition(".")[2] in IMAGE_EXTENSIONS:
                images.append((name, data))
            elif extension == "json":
                fields.update(self._json(path, name, data))
            elif extension in TEXTS:
                fields[extension] = data.decode("utf-8", "replace").strip()
            elif extension not in self._left_out:
                self._left_out.add(extension)
                _log.warning("parts .%s are left out (first: %s in %s)", extension, name, self._storage.address(path))
        for name, data in images:
            yield Record(image_key(name), extension_of(data, name), data, fields)

    def _json(self, path: str, name: str, data: bytes) -> dict[str, Any]:
        try:
            content = json.loads(data)
        except ValueError as error:
            raise DataError(f"'{name}' is not valid JSON ({error})", where=self._storage.address(path), fix="write it again") from error
        return content if isinstance(content, dict) else {"json": content}


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
