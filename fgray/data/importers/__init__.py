"""Readers of other layouts for ``fgray shards build``; one file per layout."""

from __future__ import annotations

from fgray.data.importers.base import Record, Source
from fgray.data.importers.coco import CocoSource
from fgray.data.importers.folder import FolderSource
from fgray.data.importers.parquet import ParquetSource
from fgray.data.importers.webdataset import WebDatasetSource
from fgray.errors import DataError
from fgray.storage import open_storage

__all__ = ["CocoSource", "FolderSource", "ParquetSource", "Record", "Source", "WebDatasetSource", "open_source"]


def open_source(uri: str, images: str | None = None) -> Source:
    """Choose the reader for `uri` by what lies there.

    Args:
        uri: a COCO ``.json`` file, a ``.tar`` or ``.parquet`` file, a folder with ``.tar`` or ``.parquet`` files, or a
            folder of images; local or s3://.
        images: folder of the images of a COCO file; default: the folder of the file itself.

    Raises:
        DataError: nothing is there that can be read.
    """
    folder, _, name = uri.rstrip("/").rpartition("/")
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    if images is not None and suffix != "json":
        fix = "give it with a COCO .json file only"
        raise DataError("an image folder is given beside a source that holds its own images", where=uri, fix=fix)
    if suffix in ("json", "tar", "parquet"):
        storage = open_storage(folder or ("/" if uri.startswith("/") else "."))
        if not storage.exists(name):
            raise DataError("no such file", where=uri, fix="check the path")
        if suffix == "json":
            return CocoSource(storage, name, storage if images is None else open_storage(images))
        return WebDatasetSource(storage, [name]) if suffix == "tar" else ParquetSource(storage, [name])
    storage = open_storage(uri)
    paths = [info.path for info in storage.list()]
    tars = [path for path in paths if path.endswith(".tar")]
    tables = [path for path in paths if path.endswith(".parquet") and path not in ("manifest.parquet", "index.parquet")]
    if tars and tables:
        raise DataError("both .tar and .parquet files lie here", where=storage.uri, fix="name the files of one kind, or separate them")
    if tars:
        return WebDatasetSource(storage, tars)
    return ParquetSource(storage, tables) if tables else FolderSource(storage)
