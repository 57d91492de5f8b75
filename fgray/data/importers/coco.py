"""COCO JSON (https://cocodataset.org/#format-data): instances, captions or image lists, with their image files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from fgray.data.importers.base import Record, extension_of, read_in_order
from fgray.data.index import image_key
from fgray.errors import DataError, NotFound
from fgray.storage import Storage


class CocoSource:
    """The images that a COCO file lists, in its order, with their captions and annotations.

    Args:
        storage: where the JSON file lies.
        path: of the JSON file.
        images: folder that ``file_name`` starts from.
    """

    schema = pa.schema(
        [
            ("image_id", pa.int64()),
            ("file_name", pa.string()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("license", pa.int64()),
            ("captions", pa.list_(pa.string())),
            ("annotations", pa.string()),  # JSON: the file's own entries, each with its category's name
        ]
    )

    def __init__(self, storage: Storage, path: str, images: Storage) -> None:
        self._storage, self._path, self._images = storage, path, images

    def records(self) -> Iterator[Record]:
        """Yield every image.

        Raises:
            DataError: the file is not COCO JSON, or an image file is missing.
        """
        where = self._storage.address(self._path)
        try:
            content = json.loads(self._storage.read_bytes(self._path))
            images = [(int(image["id"]), str(image["file_name"]), image) for image in content["images"]]
            categories = {category["id"]: category["name"] for category in content.get("categories", [])}
            annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for entry in content.get("annotations", []):
                annotations[int(entry["image_id"])].append(_named(entry, categories))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fix = "give a file with 'images' [{id, file_name}] and 'annotations' [{image_id, …}]"
            raise DataError(f"not COCO JSON ({type(error).__name__}: {error})", where=where, fix=fix) from error
        if not images:
            raise DataError("the file lists no images", where=where, fix="check that it is the right one")
        contents = read_in_order(self._images, (name for _, name, _ in images))
        for image_id, name, image in images:
            try:
                data = next(contents)
            except NotFound as error:
                fix = "give the folder that file_name starts from: fgray shards build --images FOLDER"
                raise DataError(f"no image file '{name}'", where=self._images.uri, fix=fix) from error
            entries = annotations[image_id]
            fields = {
                "image_id": image_id,
                "file_name": name,
                **{field: image.get(field) for field in ("width", "height", "license")},
                "captions": [entry["caption"] for entry in entries if "caption" in entry],
                "annotations": json.dumps([entry for entry in entries if "caption" not in entry], sort_keys=True),
            }
            yield Record(image_key(name), extension_of(data, name), data, fields)


def _named(entry: dict[str, Any], categories: dict[Any, str]) -> dict[str, Any]:
    return {**entry, "category": categories[entry["category_id"]]} if "category_id" in entry else entry
