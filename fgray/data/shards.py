"""Packing images into shards, and checking packed folders.

A packed folder holds ``shard-NNNNNN.tar`` (WebDataset: KEY.jpg and KEY.json) or ``shard-NNNNNN.parquet`` (key, image and
the source's columns), ``index.parquet`` and, written last, ``manifest.parquet``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fgray.data.importers import Record, Source, open_source
from fgray.data.index import INDEX, INDEX_SCHEMA, MANIFEST, MANIFEST_SCHEMA, write_table
from fgray.data.verify import verify_shards
from fgray.errors import DataError
from fgray.storage import open_storage

__all__ = ["BuildSummary", "build_shards", "verify_shards"]

ShardFormat = Literal["tar", "parquet"]
SHARD_BYTES = 256 << 20
ROW_GROUP_BYTES = 4 << 20  # small row groups, so that one image of a Parquet shard costs a short read
_SHARD_NAME = re.compile(r"shard-\d{6}\.(tar|parquet)")


class BuildSummary(NamedTuple):
    """What a build has written."""

    uri: str
    shards: int
    images: int
    bytes: int


def build_shards(source: Source | str, dst: str, format: ShardFormat = "tar", shard_bytes: int = SHARD_BYTES) -> BuildSummary:
    """Pack a source; the images' bytes are copied, never decoded.

    Each shard appears whole, and the manifest comes last, so an interrupted build is simply run again: it writes the
    same shards byte for byte. One shard at a time is held in memory (twice).

    Args:
        source: what to pack, or the address of it, read as `fgray.data.importers.open_source` chooses.
        dst: new folder or s3:// prefix.
        format: "tar" (WebDataset) or "parquet".
        shard_bytes: a shard is closed before its images would exceed this.

    Raises:
        DataError: `dst` is already packed, the source is empty, or it repeats a key.
        StorageError: something cannot be read or written.
    """
    if format not in ("tar", "parquet") or shard_bytes <= 0:
        raise DataError(f"no shards of format '{format}' and {shard_bytes} bytes", fix="choose tar or parquet, and a positive size")
    if isinstance(source, str):
        source = open_source(source)
    storage = open_storage(dst)
    if storage.exists(MANIFEST):
        fix = f"choose a new one, or delete its {MANIFEST} to build it again"
        raise DataError("this folder is already packed", where=storage.uri, fix=fix)
    shards: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for records in _batches(source, shard_bytes, storage.uri):
        name = f"shard-{len(shards):06d}.{format}"
        data, places = _pack_tar(records) if format == "tar" else _pack_parquet(records, source.schema)
        storage.write_bytes(name, data)
        shards.append({"shard": name, "rows": len(records), "bytes": len(data), "sha256": hashlib.sha256(data).digest()})
        for row, (record, (offset, length)) in enumerate(zip(records, places, strict=True)):
            digest = hashlib.sha256(record.data).digest()
            rows.append({"key": record.key, "shard": name, "row": row, "offset": offset, "length": length, "sha256": digest})
        del records, record, data  # before the next shard's images are read
    if not shards:
        raise DataError("the source holds no images", where=storage.uri, fix="check its path")
    names = {shard["shard"] for shard in shards}
    for info in list(storage.list()):  # of an interrupted build from another source or with another size
        if _SHARD_NAME.fullmatch(info.path) and info.path not in names:
            storage.delete(info.path)
    write_table(storage, INDEX, pa.Table.from_pylist(rows, INDEX_SCHEMA))
    write_table(storage, MANIFEST, pa.Table.from_pylist(shards, MANIFEST_SCHEMA))
    return BuildSummary(storage.uri, len(shards), len(rows), sum(shard["bytes"] for shard in shards))


def _batches(source: Source, shard_bytes: int, where: str) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    seen: set[str] = set()
    for record in source.records():
        if record.key in seen:
            what = f"duplicate keys: '{record.key}' comes twice in the source"
            raise DataError(what, where=where, fix="every image needs a key of its own")
        if not record.key or "." in record.key.rpartition("/")[2]:
            raise DataError(f"key '{record.key}' is empty or has a '.' in its name", where=where, fix="write '%2E' for '.'")
        seen.add(record.key)
        if batch and size + len(record.data) > shard_bytes:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.data)
    if batch:
        yield batch


Places = list[tuple[int | None, int | None]]  # (offset, length) of every image


def _pack_tar(records: Sequence[Record]) -> tuple[memoryview, Places]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for record in records:
            for extension, data in ((record.extension, record.data), ("json", _to_json(record))):
                member = tarfile.TarInfo(f"{record.key}.{extension}")  # no times or owners: equal input, equal bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        places: Places = [(member.offset_data, member.size) for member in tar if not member.name.endswith(".json")]
    return buffer.getbuffer(), places


def _to_json(record: Record) -> bytes:
    try:
        return json.dumps(record.fields, ensure_ascii=False, sort_keys=True, default=_plain).encode()
    except TypeError as error:
        raise DataError(f"a field has no JSON form ({error})", where=record.key, fix="use Parquet shards (format parquet)") from error


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        raise TypeError("binary value")
    return str(value)  # dates, decimals


def _pack_parquet(records: Sequence[Record], schema: pa.Schema | None) -> tuple[memoryview, Places]:
    columns = [("key", pa.string()), ("image", pa.binary())]
    extra = pa.schema([("metadata", pa.string())]) if schema is None else schema
    full = pa.schema([*columns, *extra])
    sink = io.BytesIO()
    # Images do not compress, and dictionaries of them would double the memory.
    compression = {name: "none" if name == "image" else "zstd" for name in full.names}
    with pq.ParquetWriter(sink, full, compression=compression, use_dictionary=False, write_statistics=["key"]) as writer:
        group: list[dict[str, Any]] = []
        size = 0
        for record in records:
            fields: Mapping[str, Any] = {"metadata": _to_json(record).decode()} if schema is None else record.fields
            group.append({**fields, "key": record.key, "image": record.data})
            size += len(record.data)
            if size >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, full))
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, full))
    return sink.getbuffer(), [(None, None)] * len(records)
