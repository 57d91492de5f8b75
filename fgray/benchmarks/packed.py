"""``fgray import``: a benchmark's cases and images in one packed folder, which evaluates to the same numbers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from fgray.benchmarks.base import BENCHMARKS
from fgray.benchmarks.layout import PACKED_FILE, FolderBenchmark, subset_counts
from fgray.data.importers.base import Record, extension_of
from fgray.data.index import MANIFEST, ImageIndex
from fgray.data.shards import SHARD_BYTES, ShardFormat, build_shards
from fgray.errors import ConfigError, DataError
from fgray.storage import open_storage

_CHUNK = 256  # images read at a time


class _CaseImages:
    """The images that cases name, as a source for `build_shards`: in the order of their first use."""

    schema = None

    def __init__(self, images: ImageIndex, keys: list[str]) -> None:
        self._images, self._keys = images, keys

    def records(self) -> Iterator[Record]:
        """Yield every image once."""
        for start in range(0, len(self._keys), _CHUNK):
            rows = self._images.locate(self._keys[start : start + _CHUNK])
            for key, shard, data in zip(rows["key"].to_pylist(), rows["shard"].to_pylist(), self._images.read(rows), strict=True):
                yield Record(key, extension_of(data, shard), data, {})


def import_benchmark(
    name: str,
    src: str,
    dst: str,
    options: Mapping[str, Any] | None = None,
    *,
    format: ShardFormat = "tar",
    shard_bytes: int = SHARD_BYTES,
    cache: str | None = None,
) -> dict[str, Any]:
    """Pack a benchmark from its official layout.

    `dst` gets ``shard-*``, ``index.parquet``, ``manifest.parquet``, ``cases.parquet`` (with pools, prototypes and regions) and, last,
    ``benchmark.json``: name, options, counts, whether it is the official release. The benchmark's own `load` reads it.

    Args:
        name: registry name.
        src: folder or s3:// prefix in the official layout.
        dst: new folder or s3:// prefix.
        options: the benchmark's options.
        format: "tar" (WebDataset) or "parquet".
        shard_bytes: bytes of images per shard.
        cache: where an image index of `src` may be kept; None: a temporary folder.

    Returns:
        The content of ``benchmark.json``.

    Raises:
        ConfigError: unknown benchmark or option, or one that makes its own data.
        DataError: the layout is wrong, or `dst` holds a packed benchmark already.
    """
    kind = BENCHMARKS.get(name)
    if not issubclass(kind, FolderBenchmark):
        raise ConfigError(f"{name} is not read from a folder in an official layout", fix="run it without importing")
    benchmark = kind(**dict(options or {}))
    target = open_storage(dst)
    if target.exists(PACKED_FILE):
        raise DataError("this folder holds a packed benchmark already", where=target.uri, fix="choose a new folder")
    if open_storage(src).exists(PACKED_FILE):
        raise DataError("this folder is packed already", where=src, fix="copy it as it is")
    with tempfile.TemporaryDirectory() as scratch:
        found = benchmark.read(open_storage(src).uri, cache or scratch)
        keys = found.cases.pictures()
        if not target.exists(MANIFEST):  # an interrupted import may have packed them already
            build_shards(_CaseImages(found.images, keys), target.uri, format, shard_bytes)
        _check_packed(found.images, target.uri, keys)
    found.cases.save(target)
    info, hashes_match = benchmark.facts(), benchmark.hashes_match(found)
    facts = {
        "name": name,
        "title": info.title,
        "options": benchmark.model_dump(mode="json"),
        "official": hashes_match and benchmark.counts_match(found.cases),
        "hashes_match": hashes_match,
        "counts": subset_counts(found.cases),
        "images": len(keys),
        "notes": found.notes,
        "source": info.url,
        "licence": info.licence,
    }
    target.write_bytes(PACKED_FILE, json.dumps(facts, indent=1, ensure_ascii=False).encode() + b"\n")
    return facts


def _check_packed(images: ImageIndex, uri: str, keys: list[str]) -> None:
    """Make sure that the shards hold these very images."""
    packed = ImageIndex.load(uri, open_storage(uri)).locate(keys)
    if packed["sha256"].to_pylist() != images.locate(keys)["sha256"].to_pylist():
        raise DataError("the shards here hold other images", where=uri, fix="choose a new folder")
