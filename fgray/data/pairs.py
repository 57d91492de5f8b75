"""Image-text pairs: what mining starts from and training reads."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.data.index import ImageIndex
from fgray.errors import DataError
from fgray.storage import open_storage

PAIR_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string()),  # key of the image index; null: a text without an image
        pa.field("text", pa.string()),  # a caption of it, as it stands; null: an image without a caption
        pa.field("label", pa.string()),  # class or cluster of the image, where one is known
    ]
)
"""One row per (image, caption, label), each once, sorted by them. Rows with one side only can be mined from, never anchor a pair."""


@dataclass(frozen=True)
class PairSet:
    """Pairs and the images they name.

    Attributes:
        table: rows of ``PAIR_SCHEMA``.
        index: where the images lie.
    """

    table: pa.Table
    index: ImageIndex

    @property
    def images(self) -> list[str]:
        """Return the distinct image keys, sorted."""
        return sorted(pc.unique(self.table["image"].drop_null()).to_pylist())

    @property
    def texts(self) -> list[str]:
        """Return the distinct captions, sorted."""
        return sorted(pc.unique(self.table["text"].drop_null()).to_pylist())


def read_pairs(uri: str) -> pa.Table:
    """Read pairs from a Parquet file with columns image, text and, if you like, label.

    Raises:
        DataError: it is damaged, a column is missing or of another type, or it holds no pair.
        NotFound: there is no such file.
    """
    folder, _, name = uri.rpartition("/")
    storage = open_storage(folder or ("/" if uri.startswith("/") else "."))
    fix = "write columns image, text and, if you like, label, all strings"
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(name)))
        missing = [column for column in ("image", "text") if column not in table.column_names]
        if missing:
            raise DataError(f"column '{missing[0]}' is missing", where=uri, fix=fix)
        if "label" not in table.column_names:
            table = table.append_column("label", pa.nulls(table.num_rows, pa.string()))
        table = table.select(PAIR_SCHEMA.names).cast(PAIR_SCHEMA)
    except pa.ArrowException as error:
        raise DataError(f"no readable pairs ({str(error).splitlines()[0]})", where=uri, fix=fix) from error
    table = table.filter(pc.or_(pc.is_valid(table["image"]), pc.is_valid(table["text"])))
    if table.num_rows == 0:
        raise DataError("there are no pairs", where=uri, fix=fix)
    distinct = table.group_by(PAIR_SCHEMA.names).aggregate([]).select(PAIR_SCHEMA.names)
    return distinct.sort_by([(column, "ascending") for column in PAIR_SCHEMA.names]).cast(PAIR_SCHEMA).combine_chunks()
