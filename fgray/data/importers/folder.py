"""A plain folder of image files, at any depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from fgray.data.importers.base import Record, extension_of, read_in_order
from fgray.data.index import image_key, list_images
from fgray.storage import FileInfo, Storage


class FolderSource:
    """Every image below a folder, sorted by path; the key is the path without its extension.

    Args:
        storage: at the folder.
        files: only these; None: all images.
    """

    schema = pa.schema([])

    def __init__(self, storage: Storage, files: Sequence[FileInfo] | None = None) -> None:
        self._storage, self._files = storage, files

    def records(self) -> Iterator[Record]:
        """Yield every image.

        Raises:
            DataError: there are no images, or two have the same key.
        """
        files = list(list_images(self._storage).values()) if self._files is None else self._files
        contents = read_in_order(self._storage, (info.path for info in files))
        for info, data in zip(files, contents, strict=True):
            yield Record(image_key(info.path), extension_of(data, info.path), data, {})
