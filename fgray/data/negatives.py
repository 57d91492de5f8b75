"""The negatives file: what mining and text generation write, and training reads."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.errors import DataError
from fgray.storage import open_storage

FORMAT = b"fgray.negatives/1"
FORMAT_KEY = b"fgray.format"  # in the schema's metadata; a file without it is foreign
FACTS_KEY = b"fgray.facts"  # JSON there: what made the file (model, data, configuration fingerprints)
NAME = "negatives.parquet"
GROUP_ROWS = 8192  # of a row group
DIRECTIONS = {
    "image_to_text": ("image", "text"),
    "text_to_image": ("text", "image"),
    "image_to_image": ("image", "image"),
    "text_to_text": ("text", "text"),
    "text_edit": ("text", "text"),
}
"""Direction -> kind of the anchor, kind of the negatives."""

NEGATIVE = pa.struct(
    [
        pa.field("ref", pa.string(), nullable=False),  # image key, or the text itself
        pa.field("score", pa.float64()),  # cosine to the anchor; null for generated texts
        pa.field("margin", pa.float64()),  # the positive's score minus this one; null without a positive's score
        pa.field("rank", pa.int32()),  # place from 1 among all candidates, an anchor of their kind included, before filters; else null
        pa.field("type", pa.string(), nullable=False),  # mined, or a generator's own: relation, swap_noun, replace_obj, …
        pa.field("start", pa.int32()),  # first character of the edit in `ref`; null where nothing was edited
        pa.field("end", pa.int32()),  # one past its last
        pa.field("original", pa.string()),  # what stood there in the anchor
        pa.field("plausibility", pa.float64()),  # log-likelihood per token of `ref` minus the anchor's, text only; null where not computed
        pa.field("valid", pa.bool_(), nullable=False),  # false: a placeholder that losses mask out (a caption without an adjective)
        pa.field("source", pa.string(), nullable=False),  # model fingerprint's first 12 digits, or the generator with its options
        pa.field("reason", pa.string(), nullable=False),  # why it was kept, in one clause
    ]
)

NEGATIVE_SCHEMA = pa.schema(
    [
        pa.field("direction", pa.string(), nullable=False),  # image_to_text | text_to_image | image_to_image | text_to_text | text_edit
        pa.field("anchor_kind", pa.string(), nullable=False),  # image | text
        pa.field("anchor", pa.string(), nullable=False),  # image key, or the text itself
        pa.field("positive_kind", pa.string()),  # image | text; null where the anchor has no positive of the other kind
        pa.field("positive", pa.string()),
        pa.field("positive_score", pa.float64()),
        pa.field("negative_kind", pa.string(), nullable=False),  # image | text
        pa.field("negatives", pa.list_(NEGATIVE), nullable=False),  # hardest first; generated ones in their generator's order
    ]
)
"""One row per (direction, anchor, positive), sorted by these; (anchor) alone where there is no positive."""


def to_parquet(rows: pa.Table, facts: Mapping[str, Any]) -> bytes:
    """Return the bytes of a negatives file; equal rows and facts give equal bytes.

    Args:
        rows: of ``NEGATIVE_SCHEMA``; they are sorted here. Sorted ones are not copied as a whole, and may hold any amount of text;
            others no more than 2 GiB in any column.
        facts: plain values that say what made them.
    """
    order = [(name, "ascending") for name in ("direction", "anchor", "positive")]
    table = rows.cast(NEGATIVE_SCHEMA)
    places = pc.sort_indices(table.select([name for name, _ in order]), order)
    if not np.array_equal(places, np.arange(table.num_rows)):
        table = table.take(places)
    check(table, "the rows to write")
    meta = {FORMAT_KEY: FORMAT, FACTS_KEY: json.dumps(dict(facts), sort_keys=True).encode()}
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, NEGATIVE_SCHEMA.with_metadata(meta), compression="zstd") as writer:
        for start in range(0, table.num_rows, GROUP_ROWS):  # Arrow's strings bear 2 GiB in a piece; the pieces do not depend on the chunks
            writer.write_table(table.slice(start, GROUP_ROWS).combine_chunks().replace_schema_metadata(meta))
    return sink.getvalue()


def read_negatives(uri: str) -> tuple[pa.Table, dict[str, Any]]:
    """Read and check a negatives file.

    Args:
        uri: the file, or the run folder that holds it.

    Returns:
        rows of ``NEGATIVE_SCHEMA`` and the facts of the run that made them.

    Raises:
        DataError: the file is damaged, foreign, of another version, or contradicts itself.
        NotFound: there is no such file.
    """
    address = uri if uri.endswith(".parquet") else f"{uri.rstrip('/')}/{NAME}"
    folder, _, name = address.rpartition("/")
    data = open_storage(folder or ("/" if address.startswith("/") else ".")).read_bytes(name)
    fix = "name the negatives.parquet of a mine or text_negatives run, or run that job again"
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"damaged negatives file ({str(error).splitlines()[0]})", where=address, fix=fix) from error
    meta = table.schema.metadata or {}
    if FORMAT_KEY not in meta:
        raise DataError("this is not a negatives file", where=address, fix=fix)
    if meta[FORMAT_KEY] != FORMAT:
        found = meta[FORMAT_KEY].decode(errors="replace")
        raise DataError(f"negatives of format '{found}', this version reads '{FORMAT.decode()}'", where=address, fix="mine them again")
    try:
        facts = json.loads(meta[FACTS_KEY])
        table = table.replace_schema_metadata(None).cast(NEGATIVE_SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"the columns are not a negatives file's ({str(error).splitlines()[0]})", where=address, fix=fix) from error
    check(table, address)
    return table, facts


def check(table: pa.Table, where: str) -> None:
    """Refuse rows that contradict themselves.

    Raises:
        DataError: an unknown direction, kinds that are not the direction's, a null, an edit outside its text, or a row twice.
    """
    for field in NEGATIVE_SCHEMA:
        if not field.nullable and table[field.name].null_count:
            raise DataError(f"column '{field.name}' has empty cells", where=where, fix="run the job again")
    for direction in pc.unique(table["direction"]).to_pylist():
        if direction not in DIRECTIONS:
            raise DataError(f"unknown direction '{direction}'", where=where, fix="known: " + ", ".join(DIRECTIONS))
        rows = table.select(["direction", "anchor_kind", "negative_kind"]).filter(pc.equal(table["direction"], direction))
        for column, kind in zip(("anchor_kind", "negative_kind"), DIRECTIONS[direction], strict=True):
            if pc.unique(rows[column]).to_pylist() != [kind]:
                raise DataError(f"{column} of {direction} must be {kind}", where=where, fix="run the job again")
    keys = table.select(["direction", "anchor", "positive"])
    if keys.group_by(keys.column_names).aggregate([]).num_rows != keys.num_rows:
        raise DataError("an anchor with its positive stands twice", where=where, fix="run the job again")
    flat = pc.list_flatten(table["negatives"])
    if not len(flat):
        return
    for name in ("ref", "type", "valid", "source", "reason"):
        if pc.struct_field(flat, name).null_count:
            raise DataError(f"a negative has no {name}", where=where, fix="run the job again")
    start, end, length = (*(pc.struct_field(flat, name) for name in ("start", "end")), pc.utf8_length(pc.struct_field(flat, "ref")))
    inside = pc.and_(pc.and_(pc.greater_equal(start, 0), pc.less_equal(start, end)), pc.less_equal(end, length))
    if pc.any(pc.invert(inside)).as_py():
        raise DataError("an edit lies outside its text", where=where, fix="run the job again")
