"""CLIP_benchmark's WebDataset layout: ``SPLIT/N.tar`` with KEY.IMAGE and KEY.cls, their number in ``SPLIT/nshards.txt``."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from fgray.benchmarks.files import read_bytes, sha256_hex
from fgray.data.decode import IMAGE_EXTENSIONS
from fgray.data.index import INDEX_SCHEMA, ImageIndex
from fgray.errors import DataError, NotFound
from fgray.storage import RangedFile, Storage, open_storage

_TABLE = INDEX_SCHEMA.append(pa.field("label", pa.int32()))


def read_wds(storage: Storage, split: str, cache: str) -> tuple[ImageIndex, dict[str, int]]:
    """Index the shards of one split where they lie.

    The shards are read once; the index is kept under `cache`, named by a hash of the shards' paths, sizes and versions.

    Returns:
        The image index (keys are ``SPLIT/SHARD/KEY``), and image key -> class position, in shard order.

    Raises:
        DataError: nshards.txt or a shard is missing, there are more shards than it says, a shard is damaged, or a sample
            lacks its image or its class.
    """
    shards = _shards(storage, split)
    listing = [(path, *storage.stat(path)[1:]) for path in shards]
    kept = open_storage(cache)
    name = f"wds-{sha256_hex(repr((storage.uri, listing)).encode())[:32]}.parquet"
    try:
        table = pq.read_table(pa.BufferReader(kept.read_bytes(name)))
    except NotFound:
        table = pa.Table.from_pylist([row for path in shards for row in _samples(storage, path)], schema=_TABLE)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        kept.write_bytes(name, sink.getvalue())
    if table.num_rows == 0:
        raise DataError("the shards hold no samples", where=f"{storage.uri}/{split}", fix="download the data set again")
    labels = dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))
    return ImageIndex(storage.uri, table.select(INDEX_SCHEMA.names)), labels


def _shards(storage: Storage, split: str) -> list[str]:
    looked_for = f"CLIP_benchmark layout: {split}/nshards.txt beside {split}/0.tar"
    text = read_bytes(storage, f"{split}/nshards.txt", looked_for).decode("utf-8", "replace").strip()
    if not text.isdecimal() or int(text) == 0:
        raise DataError(
            f"'{text}' is not a number of shards", where=f"{storage.uri}/{split}/nshards.txt", fix="write the number of .tar files"
        )
    if storage.exists("dataset_type.txt"):
        kind = storage.read_bytes("dataset_type.txt").decode("utf-8", "replace").strip()
        if kind not in ("classification", ""):
            raise DataError(
                f"a data set of type '{kind}'", where=f"{storage.uri}/dataset_type.txt", fix="zero_shot needs type classification"
            )
    expected = [f"{split}/{number}.tar" for number in range(int(text))]
    present = {info.path for info in storage.list(split) if info.path.endswith(".tar")}
    missing = [path for path in expected if path not in present]
    if missing:
        raise DataError(
            f"nshards.txt says {text} shards, {len(missing)} of them missing, the first is {missing[0]}",
            where=storage.uri,
            fix="download it again",
        )
    extra = sorted(present.difference(expected))
    if extra:
        raise DataError(
            f"nshards.txt says {text} shards, but there is also {extra[0]}", where=storage.uri, fix="correct nshards.txt or remove it"
        )
    return expected


def _samples(storage: Storage, path: str) -> Iterator[dict[str, object]]:
    """Yield one row of `_TABLE` per sample of a shard."""
    where = f"{storage.uri}/{path}"
    images: dict[str, dict[str, object]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=io.BufferedReader(RangedFile(storage, path), 8 << 20), mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, suffix = member.name.rpartition("/")[2].partition(".")
                suffix = suffix.lower()
                if suffix != "cls" and suffix not in IMAGE_EXTENSIONS:
                    continue
                if stem in (labels if suffix == "cls" else images):
                    raise DataError(f"duplicate key '{stem}'", where=where, fix="keys must be unique within a shard")
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                if suffix == "cls":
                    labels[stem] = _label(content, f"{where} {member.name}")
                else:
                    key = f"{path.removesuffix('.tar')}/{stem}"
                    digest = hashlib.sha256(content).digest()
                    images[stem] = {"key": key, "shard": path, "offset": member.offset_data, "length": member.size, "sha256": digest}
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"damaged tar file ({error})", where=where, fix="download the shard again") from error
    unpaired = sorted(images.keys() ^ labels.keys())
    if unpaired:
        raise DataError(
            f"sample '{unpaired[0]}' lacks its {'class' if unpaired[0] in images else 'image'}", where=where, fix="download the shard again"
        )
    for row, (stem, entry) in enumerate(images.items()):
        yield {**entry, "row": row, "label": labels[stem]}


def _label(content: bytes, where: str) -> int:
    text = content.decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise DataError(f"'{text[:40]}' is not a class number", where=where, fix="labels are numbers from 0")
    return int(text)
