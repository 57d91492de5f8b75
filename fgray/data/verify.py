"""Checking a packed folder against its manifest and index."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.data.index import INDEX, INDEX_SCHEMA, MANIFEST, MANIFEST_SCHEMA, image_key, read_table
from fgray.errors import DataError, NotFound
from fgray.storage import Storage, open_storage


def verify_shards(dst: str) -> list[str]:
    """Check every shard and every indexed image.

    Shards: present, size, sha256, number of images. Images: sha256 of the indexed range, key, unique keys. Files that
    the manifest does not list are reported, too.

    Args:
        dst: a packed folder or s3:// prefix.

    Returns:
        One line per finding; empty when all is well.

    Raises:
        DataError: the folder has no manifest or index, or they are damaged.
        StorageError: the store does not answer.
    """
    storage = open_storage(dst)
    try:
        manifest = read_table(storage, MANIFEST, MANIFEST_SCHEMA)
        index = read_table(storage, INDEX, INDEX_SCHEMA)
    except NotFound as error:
        fix = "run `fgray shards build` again"
        raise DataError("not a packed folder, or its build was interrupted", where=error.where, fix=fix) from error
    findings = _repeated(manifest["shard"], "shard", MANIFEST) + _repeated(index["key"], "key", INDEX)
    known = set(manifest["shard"].to_pylist())
    for shard in pc.unique(index["shard"]).to_pylist():
        if shard not in known:
            findings.append(f"{shard}: in {INDEX}, but not in {MANIFEST}")
    for row in manifest.to_pylist():
        findings += _check_shard(storage, row, index.filter(pc.equal(index["shard"], row["shard"])))
    for info in storage.list():
        if re.fullmatch(r"shard-\d+\.(tar|parquet)", info.path) and info.path not in known:
            findings.append(f"{info.path}: not in {MANIFEST}; delete it, or build again")
    return findings


def _repeated(values: pa.ChunkedArray, what: str, where: str) -> list[str]:
    counts = [(entry["values"], entry["counts"]) for entry in values.value_counts().to_pylist()]
    return [f"{where}: {what} '{value}' stands there {count} times" for value, count in counts if count > 1]


def _check_shard(storage: Storage, row: dict[str, object], index: pa.Table) -> list[str]:
    shard = str(row["shard"])
    try:
        data = storage.read_bytes(shard)
    except NotFound:
        return [f"{shard}: missing"]
    findings = []
    if len(data) != row["bytes"]:
        findings.append(f"{shard}: {len(data)} bytes, the manifest says {row['bytes']}")
    if hashlib.sha256(data).digest() != row["sha256"]:
        findings.append(f"{shard}: sha256 differs from the manifest's")
    if index.num_rows != row["rows"]:
        findings.append(f"{shard}: {index.num_rows} images in {INDEX}, the manifest says {row['rows']}")
    try:
        images = _tar_images(data) if shard.endswith(".tar") else _parquet_images(data)
    except (tarfile.TarError, pa.ArrowInvalid, OSError, KeyError) as error:
        return [*findings, f"{shard}: cannot be read ({error})"]
    if len(images) != row["rows"]:
        findings.append(f"{shard}: holds {len(images)} images, the manifest says {row['rows']}")
    for entry in index.to_pylist():
        place = entry["row"] if entry["offset"] is None else entry["offset"]
        key, image = images.get(place, (None, b""))
        if key != entry["key"]:
            findings.append(f"{shard}: '{entry['key']}' is not where {INDEX} says")
        elif hashlib.sha256(image).digest() != entry["sha256"] or entry["length"] not in (None, len(image)):
            findings.append(f"{shard}: '{entry['key']}' has other bytes than {INDEX} says")
    return findings


def _tar_images(data: bytes) -> dict[int, tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [member for member in tar if member.isfile() and not member.name.endswith(".json")]
    return {m.offset_data: (image_key(m.name), data[m.offset_data : m.offset_data + m.size]) for m in members}


def _parquet_images(data: bytes) -> dict[int, tuple[str, bytes]]:
    table = pq.read_table(pa.BufferReader(data), columns=["key", "image"])
    return dict(enumerate(zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True)))
