"""Where every image lies, as byte ranges of shards, and reading them."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.data.decode import IMAGE_EXTENSIONS
from fgray.errors import DataError
from fgray.storage import FileInfo, RangedFile, Storage, open_storage

INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # unique
        pa.field("shard", pa.string(), nullable=False),  # path below the root
        pa.field("row", pa.int64(), nullable=False),  # position in the shard
        pa.field("offset", pa.int64()),  # first byte in the shard; null: a Parquet shard, read by row
        pa.field("length", pa.int64()),  # bytes; null like offset
        pa.field("sha256", pa.binary(32), nullable=False),  # of the encoded image
    ]
)
"""One row per image. A plain image file is a shard of its own, with offset 0."""

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),  # path below the root
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),  # of the whole shard
    ]
)
"""One row per shard. It is written last: its presence says that a packed folder is whole."""

INDEX = "index.parquet"
MANIFEST = "manifest.parquet"


def image_key(path: str) -> str:
    """Return the key of an image file: its path without the extension.

    A '.' inside the name becomes ``%2E``, because WebDataset ends a key at the first '.' of the file's name.
    """
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    return folder + slash + stem.replace(".", "%2E")


@dataclass
class ImageIndex:
    """Images of one packed or plain folder.

    Attributes:
        root_uri: the folder or s3:// prefix that shard paths start from.
        table: rows of ``INDEX_SCHEMA``.
    """

    root_uri: str
    table: pa.Table

    @property
    def keys(self) -> pa.ChunkedArray:
        """All keys, in the order of the index."""
        return self.table["key"]

    @cached_property
    def storage(self) -> Storage:
        """The storage at `root_uri`."""
        return open_storage(self.root_uri)

    def places(self, keys: Sequence[str]) -> pa.Array:
        """Return the row of each key, in their order (repeats allowed).

        Raises:
            DataError: a key is not in the index.
        """
        positions = pc.index_in(pa.array(keys, pa.string()), value_set=self.keys)
        if positions.null_count:
            missing = [key for key, position in zip(keys, positions.to_pylist(), strict=True) if position is None]
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"no image '{missing[0]}'{more}", where=self.root_uri, fix=_suggest(missing[0], self.keys))
        return positions

    def locate(self, keys: Sequence[str]) -> pa.Table:
        """Return the index's rows of these keys; see `places`."""
        return self.table.take(self.places(keys))

    def read(self, rows: pa.Table) -> list[bytes]:
        """Return the encoded images of some rows of the index; see `read_rows`."""
        return read_rows(self.storage, rows)

    @classmethod
    def load(cls, root_uri: str, storage: Storage, path: str = INDEX) -> ImageIndex:
        """Read an index file that describes the images below `root_uri`.

        Raises:
            DataError: it is damaged or has other columns.
        """
        return cls(root_uri, read_table(storage, path, INDEX_SCHEMA))


def read_rows(storage: Storage, rows: pa.Table) -> list[bytes]:
    """Return encoded images in the order of `rows`, checked against their sha256.

    Args:
        storage: at the index's root.
        rows: of ``INDEX_SCHEMA``; near byte ranges of a shard are read with one request.

    Raises:
        DataError: a shard is not what the index describes.
        StorageError: a shard cannot be read.
    """
    images: list[bytes] = [b""] * rows.num_rows
    shards = rows["shard"].to_pylist()
    places: dict[str, list[int]] = {}
    for position, shard in enumerate(shards):
        places.setdefault(shard, []).append(position)
    offsets, lengths, numbers = (rows[name].to_pylist() for name in ("offset", "length", "row"))
    for shard, positions in places.items():
        if offsets[positions[0]] is None:
            found = _read_parquet_rows(storage, shard, [numbers[i] for i in positions])
        else:
            found = storage.read_ranges(shard, [(offsets[i], lengths[i]) for i in positions])
        for position, data in zip(positions, found, strict=True):
            images[position] = data
    for position, (data, expected) in enumerate(zip(images, rows["sha256"].to_pylist(), strict=True)):
        if hashlib.sha256(data).digest() != expected:
            key = rows["key"][position].as_py()
            where = storage.address(shards[position])
            raise DataError(f"image '{key}' is not the one that was indexed", where=where, fix="run `fgray shards verify` on the folder")
    return images


def _read_parquet_rows(storage: Storage, shard: str, rows: Sequence[int]) -> list[bytes]:
    try:
        file = pq.ParquetFile(io.BufferedReader(RangedFile(storage, shard), 1 << 20))
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        images: dict[int, bytes] = {}
        wanted, first = set(rows), 0
        for group, size in enumerate(sizes):
            here = sorted(row for row in wanted if first <= row < first + size)
            if here:
                column = file.read_row_group(group, columns=["image"])["image"]
                images.update((row, column[row - first].as_py()) for row in here)
            first += size
        return [images[row] for row in rows]
    except (pa.ArrowInvalid, KeyError) as error:
        where = storage.address(shard)
        raise DataError(f"not the Parquet shard that was indexed ({error})", where=where, fix="run `fgray shards verify`") from error


def read_table(storage: Storage, path: str, schema: pa.Schema) -> pa.Table:
    """Read a Parquet file that must have the columns of `schema`.

    Raises:
        DataError: it is damaged, or a column is missing or of another type.
        NotFound: there is no such file.
    """
    where = storage.address(path)
    data = storage.read_bytes(path)
    try:
        table = pq.read_table(pa.BufferReader(data))
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as error:
        raise DataError(f"not a table with the columns {', '.join(schema.names)} ({error})", where=where, fix="build it again") from error


def write_table(storage: Storage, path: str, table: pa.Table) -> None:
    """Write a Parquet file; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(path, sink.getvalue().to_pybytes())


def check_unique(keys: pa.ChunkedArray | pa.Array, where: str) -> None:
    """Refuse repeated keys.

    Raises:
        DataError: naming one of them.
    """
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    counts = keys.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    what = f"duplicate keys: '{repeated[0].as_py()}'" + (f" and {len(repeated) - 1} more" if len(repeated) > 1 else "")
    raise DataError(what, where=where, fix="every image needs a key of its own")


def _suggest(key: str, keys: pa.ChunkedArray) -> str:
    # difflib is slow on millions of names, so look only among those that share a piece of the file's name.
    if not len(keys):
        return "the folder holds no images"
    name = key.rpartition("/")[2]
    near = keys.filter(pc.or_(pc.match_substring(keys, name[:4]), pc.match_substring(keys, name[-4:]))).slice(0, 2000)
    close = difflib.get_close_matches(key, near.to_pylist(), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"its {len(keys)} keys look like '{keys[0].as_py()}'"


def open_images(root: str, cache: str | None = None, keys: Iterable[str] | None = None) -> ImageIndex:
    """Index the images below `root`.

    A packed folder (with a manifest) opens as it is. The images of a plain folder are hashed, once where `cache` is
    given: the index is kept there under a name made of the listing (paths, sizes, modification times). A plain prefix
    on S3 is packed into tar shards below `cache` in the same pass, so that evaluation does not fetch object by object.

    Args:
        root: folder or s3:// prefix.
        cache: folder or s3:// prefix where indexes and packed shards may be kept; None keeps nothing.
        keys: the images that are needed; only those of a plain folder are hashed or packed. None: all.

    Raises:
        DataError: no images, a wanted key is missing, two files with the same key.
        StorageError: something cannot be read or written.
    """
    storage = open_storage(root)
    wanted = None if keys is None else list(dict.fromkeys(keys))
    if storage.exists(MANIFEST):
        index = ImageIndex.load(storage.uri, storage)
        check_unique(index.keys, storage.address(INDEX))
        if wanted is not None:
            index.locate(wanted)
        return index
    files = _wanted_files(storage, wanted)
    listing = "\n".join([storage.uri, *(f"{info.path}\t{info.size}\t{info.version}" for info in files.values())])
    name = hashlib.sha256(listing.encode()).hexdigest()[:20]
    kept = None if cache is None else open_storage(cache)
    if kept is not None and not storage.is_local:
        from fgray.data.importers import FolderSource
        from fgray.data.shards import build_shards

        packed = kept.child(f"images-{name}")
        if not packed.exists(MANIFEST):
            build_shards(FolderSource(storage, list(files.values())), packed.uri)
        return ImageIndex.load(packed.uri, packed)
    if kept is not None and kept.exists(f"index-{name}.parquet"):
        return ImageIndex.load(storage.uri, kept, f"index-{name}.parquet")
    index = ImageIndex(storage.uri, _hash_files(storage, files))
    if kept is not None:
        write_table(kept, f"index-{name}.parquet", index.table)
    return index


def list_images(storage: Storage, wanted: Container[str] | None = None) -> dict[str, FileInfo]:
    """Return key -> file of the images below a plain folder, sorted by path; hidden files are passed over.

    Args:
        storage: at the folder.
        wanted: keys that are needed; None: all.

    Raises:
        DataError: there are no images at all, or two files have the same (wanted) key.
    """
    seen = False
    files: dict[str, FileInfo] = {}
    for info in storage.list():
        name = info.path.rpartition("/")[2]
        if name.startswith(".") or name.rpartition(".")[2].lower() not in IMAGE_EXTENSIONS:
            continue
        seen, key = True, image_key(info.path)
        if wanted is not None and key not in wanted:
            continue
        if key in files:
            what = f"duplicate keys: '{key}' is {files[key].path} and {info.path}"
            raise DataError(what, where=storage.uri, fix="rename or remove one of them")
        files[key] = info
    if not seen:
        raise DataError("no images here", where=storage.uri, fix=f"name a folder with files like .{', .'.join(sorted(IMAGE_EXTENSIONS))}")
    return files


def _wanted_files(storage: Storage, wanted: list[str] | None) -> dict[str, FileInfo]:
    files = list_images(storage, None if wanted is None else set(wanted))
    missing = [key for key in wanted or () if key not in files]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        fix = _suggest(missing[0], pa.chunked_array([[image_key(info.path) for info in storage.list()]]))
        raise DataError(f"no image '{missing[0]}'{more}", where=storage.uri, fix=fix)
    return files


def _hash_files(storage: Storage, files: Mapping[str, FileInfo]) -> pa.Table:
    def digest(info: FileInfo) -> tuple[int, bytes]:
        data = storage.read_bytes(info.path)
        return len(data), hashlib.sha256(data).digest()

    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(digest, files.values()))
    columns = {
        "key": list(files),
        "shard": [info.path for info in files.values()],
        "row": [0] * len(files),
        "offset": [0] * len(files),
        "length": [length for length, _ in digests],
        "sha256": [value for _, value in digests],
    }
    return pa.table(columns, schema=INDEX_SCHEMA)
