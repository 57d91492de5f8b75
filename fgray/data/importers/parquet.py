"""Parquet files with a column of encoded images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from fgray.data.importers.base import Record, extension_of
from fgray.errors import DataError
from fgray.storage import RangedFile, Storage

ROWS_AT_ONCE = 64


class ParquetSource:
    """Rows of Parquet files with columns ``key`` and ``image``; the other columns are kept as fields.

    ``image`` holds encoded bytes, or Hugging Face's struct {bytes, path}. Without a ``key`` column the key is the file's
    name and the row number.

    Args:
        storage: where the files lie.
        paths: of the files, all with the columns of the first.
    """

    def __init__(self, storage: Storage, paths: Sequence[str]) -> None:
        self._storage, self._paths = storage, sorted(paths)
        columns = self._open(self._paths[0]).schema_arrow
        if "image" not in columns.names or not _holds_bytes(columns.field("image").type):
            where = storage.address(self._paths[0])
            raise DataError("no column 'image' of encoded bytes", where=where, fix=f"it has: {', '.join(columns.names)}")
        self._columns = columns.remove_metadata()
        self.schema = pa.schema([field for field in self._columns if field.name not in ("key", "image")])

    def _open(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(io.BufferedReader(RangedFile(self._storage, path), 1 << 20))
        except pa.ArrowInvalid as error:
            raise DataError(f"not a Parquet file ({error})", where=self._storage.address(path), fix="remove or replace it") from error

    def records(self) -> Iterator[Record]:
        """Yield every row.

        Raises:
            DataError: a file is damaged or has other columns than the first, or an image is null.
        """
        for path in self._paths:
            file, number = self._open(path), 0
            where = self._storage.address(path)
            if not file.schema_arrow.remove_metadata().equals(self._columns):
                raise DataError("its columns differ from the first file's", where=where, fix=f"expected {', '.join(self._columns.names)}")
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    image = row.pop("image")
                    data = image.get("bytes") if isinstance(image, dict) else image
                    if data is None:
                        raise DataError(f"row {number} has no image bytes", where=where, fix="embed the images in the file")
                    stem = path.rpartition("/")[2].removesuffix(".parquet").replace(".", "%2E")
                    key = str(row.pop("key", f"{stem}/{number:08d}"))
                    number += 1
                    yield Record(key, extension_of(data), data, row)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
