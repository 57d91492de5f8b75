"""Sets of unit vectors on disk or S3, rounded so that their dot products are exact in float64.

**Why a dot product of two stored rows has one value only.** Every stored number is a multiple of 2^-26 with |x| <= 1. (Each such
number is representable in fp32: above 2^-3 the spacing of fp32 is 2^-26 or wider, below it 24 bits reach down to the grid;
fp16 holds multiples of 2^-24 only, and a bf16 number of at most 8 significant bits stays one when it is rounded to the
grid.) So a product is a multiple of 2^-52. By the Cauchy-Schwarz inequality no partial sum of |x_i * y_i| exceeds the product
of the two norms, which is below 2, and float64, whose spacing between 1 and 2 is 2^-52, represents every multiple of 2^-52 below 2. Hence
no addition ever rounds: whatever the order, the blocking, the number of threads or the device, with fused multiply-add or
without, a float64 product returns the same bits. The grid costs nothing visible: it moves a component by at most 2^-27.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.errors import DataError, NotFound
from fgray.storage import Storage, open_storage

Dtype = Literal["fp32", "bf16", "fp16"]
STORED: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "bf16": np.dtype("<u2"), "fp16": np.dtype("<f2")}
"""Type of the numbers in the files; NumPy has no bf16, so its bits are kept as uint16."""
FORMAT = "fgray vectors 1"
META, KEYS = "meta.json", "keys.parquet"
BLOCK_BYTES = 32 << 20
GRID = np.float32(2**26)
NORM_TOLERANCE = 1e-3  # of a row as given; rounding to bf16 then moves its norm by at most 2^-8

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VectorSet:
    """Unit vectors under names, in blocks of rows. Picklable; nothing is held in memory.

    Attributes:
        uri: folder or S3 prefix that holds it.
        rows: number of vectors.
        dim: their length.
        dtype: "fp32", "bf16" or "fp16", as stored.
        block_rows: rows of every block but the last.
        fingerprint: hash of keys, dtype and content; the same wherever the set lies and however it is cut into blocks.
        names: hash of the keys.
        blocks: sha256 of each block's file.
    """

    uri: str
    rows: int
    dim: int
    dtype: Dtype
    block_rows: int
    fingerprint: str
    names: str
    blocks: tuple[str, ...]

    @cached_property
    def _storage(self) -> Storage:
        return open_storage(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_storage"}

    def keys(self) -> pa.Array:
        """Return the rows' keys, large_string [rows].

        Raises:
            DataError: the file is damaged.
        """
        where = self._storage.address(KEYS)
        try:
            keys = pq.ParquetFile(pa.BufferReader(self._storage.read_bytes(KEYS))).read(use_threads=False)["key"]
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            raise DataError("the keys of the vectors cannot be read", where=where, fix=_REWRITE) from error
        keys = keys.cast(pa.large_string()).combine_chunks()
        if len(keys) != self.rows or _hash_texts(keys) != self.names:
            raise DataError("the keys are not those of the vectors", where=where, fix=_REWRITE)
        return keys

    def block(self, number: int) -> Floats:
        """Return one block's vectors, fp32 [n, dim]: exactly the stored numbers."""
        return to_fp32(self.stored(number), self.dtype)

    def stored(self, number: int) -> npt.NDArray[Any]:
        """Return one block as it is stored: [n, dim] of the type that `STORED` names.

        Raises:
            DataError: the block is not what was written.
        """
        path = block_path(number)
        data = self._storage.read_bytes(path)
        if hashlib.sha256(data).hexdigest() != self.blocks[number]:
            raise DataError("damaged block of vectors", where=self._storage.address(path), fix=_REWRITE)
        values: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        first, stop = self.span(number)
        if values.shape != (stop - first, self.dim) or values.dtype != STORED[self.dtype]:
            raise DataError("the block contradicts meta.json", where=self._storage.address(path), fix=_REWRITE)
        return values

    def span(self, number: int) -> tuple[int, int]:
        """Return the first row of a block and the one after its last."""
        return number * self.block_rows, min(self.rows, (number + 1) * self.block_rows)

    def bytes_of(self, rows: int) -> int:
        """Return the memory of that many rows as stored."""
        return rows * self.dim * STORED[self.dtype].itemsize


_REWRITE = "delete the folder and run the same command again"


def block_path(number: int) -> str:
    """Return the file name of a block."""
    return f"block-{number:05d}.npy"


def open_vectors(uri: str) -> VectorSet:
    """Open what `write_vectors` wrote.

    Raises:
        DataError: there is none, it is another program's, or it is incomplete.
    """
    storage = open_storage(uri)
    fix = "name a folder that fgray wrote, or embed again"
    try:
        meta = json.loads(storage.read_bytes(META))
    except NotFound as error:
        raise DataError("no vectors here: meta.json is missing (it is written last)", where=storage.uri, fix=fix) from error
    except ValueError as error:
        raise DataError("meta.json is not JSON", where=storage.address(META), fix=fix) from error
    if not isinstance(meta, dict) or meta.pop("format", None) != FORMAT:
        raise DataError(f"meta.json does not say 'format: {FORMAT}'", where=storage.address(META), fix=fix)
    kinds = {"rows": int, "dim": int, "dtype": str, "block_rows": int, "fingerprint": str, "names": str, "blocks": list}
    whole = set(meta) == set(kinds) and all(type(meta[name]) is kind for name, kind in kinds.items())
    if not whole or meta["dtype"] not in STORED or min(meta["rows"], meta["dim"], meta["block_rows"]) < 1:
        raise DataError("meta.json lacks fields or holds wrong ones", where=storage.address(META), fix=fix)
    if len(meta["blocks"]) != -(-meta["rows"] // meta["block_rows"]):
        raise DataError("meta.json names the wrong number of blocks", where=storage.address(META), fix=fix)
    found = {info.path for info in storage.list()}
    for path in (KEYS, *map(block_path, range(len(meta["blocks"])))):
        if path not in found:
            raise DataError("a file of the vectors is missing", where=storage.address(path), fix=_REWRITE)
    return VectorSet(storage.uri, **{**meta, "blocks": tuple(map(str, meta["blocks"]))})


def write_vectors(
    uri: str, keys: Sequence[str] | pa.Array, values: Iterable[npt.NDArray[Any]], dtype: Dtype, block_rows: int | None = None
) -> VectorSet:
    """Round vectors to a storage type and write them block by block, `meta.json` last.

    Files that already hold the same content are left alone, so writing the same set again changes nothing. One block
    is held in memory.

    Args:
        uri: folder or S3 prefix.
        keys: distinct names of the rows, in their order.
        values: unit vectors, [any n, D] floats per piece, in the order of the keys.
        dtype: storage type.
        block_rows: rows of a block; by default what 32 MiB hold.

    Raises:
        DataError: keys are doubled, a vector is not of unit length or not finite, or numbers of keys and vectors differ.
    """
    storage = open_storage(uri)
    names = (keys if isinstance(keys, pa.Array) else pa.array(keys, pa.large_string())).cast(pa.large_string())
    _check_keys(names, uri)
    before = _before(storage)
    content = hashlib.sha256()
    digests: list[str] = []
    dim = row = 0
    for block in _regroup(values, block_rows, dtype, uri):
        _check_norms(block, names, row, uri)
        stored = to_stored(block, dtype)
        content.update(stored.data)
        sink = io.BytesIO()
        np.lib.format.write_array(sink, stored, allow_pickle=False)
        digests.append(hashlib.sha256(sink.getbuffer()).hexdigest())
        number = len(digests) - 1
        if before is None or before.blocks[number : number + 1] != (digests[-1],):
            if before is not None:
                storage.delete(META)  # from here on the old set is not whole
                before = None
            storage.write_bytes(block_path(number), sink.getbuffer())
        row, (_, dim) = row + len(block), block.shape
        block_rows = block_rows or _default_rows(dim, dtype)
    if row != len(names) or not row:
        raise DataError(f"{len(names)} keys for {row} vectors", where=uri, fix="give one key per vector, at least one")
    assert block_rows is not None
    keys_hash = _hash_texts(names)
    fingerprint = hashlib.sha256(json.dumps([FORMAT, dtype, row, dim, keys_hash, content.hexdigest()]).encode()).hexdigest()
    made = VectorSet(storage.uri, row, dim, dtype, block_rows, fingerprint, keys_hash, tuple(digests))
    if before != made:
        storage.delete(META)
        _write_keys(storage, names)
        facts = {field.name: getattr(made, field.name) for field in fields(made) if field.name != "uri"}
        storage.write_bytes(META, json.dumps({"format": FORMAT, **facts}, indent=1).encode())
    return made


def to_stored(values: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[Any]:
    """Round floats to a storage type (to nearest, ties to even) and then to the grid of 2^-26."""
    wide = np.ascontiguousarray(values, np.float32)
    if dtype == "fp16":
        return wide.astype(np.float16)  # its spacing is 2^-24 or wider
    if dtype == "bf16":
        wide = to_fp32(_bf16_bits(wide), dtype)
    wide = np.rint(wide * GRID) / GRID
    return _bf16_bits(wide) if dtype == "bf16" else wide


def to_fp32(stored: npt.NDArray[Any], dtype: Dtype) -> Floats:
    """Return stored numbers as fp32, which holds them exactly."""
    if dtype == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _hash_texts(texts: pa.Array) -> str:
    """Return a hash of a list of texts, whatever Arrow's layout of it is: of each its length in bytes, and its bytes."""
    digest = hashlib.sha256()
    for first in range(0, len(texts), 65_536):
        piece = texts.slice(first, 65_536)
        digest.update(pc.binary_length(piece).to_numpy(zero_copy_only=False).astype("<i8").data)
        digest.update("".join(piece.to_pylist()).encode())
    return digest.hexdigest()


def _bf16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _default_rows(dim: int, dtype: Dtype) -> int:
    return max(1, BLOCK_BYTES // (dim * STORED[dtype].itemsize))


def _regroup(values: Iterable[npt.NDArray[Any]], rows: int | None, dtype: Dtype, uri: str) -> Iterator[Floats]:
    """Yield blocks of `rows` rows (the last may be shorter) of pieces of any length; a block is good until the next one."""
    buffer: Floats | None = None
    filled = 0
    for piece in values:
        if piece.ndim != 2 or 0 in piece.shape[1:] or not np.issubdtype(piece.dtype, np.floating):
            raise DataError(f"vectors come as {piece.dtype} {list(piece.shape)}", where=uri, fix="give floats [n, D]")
        if buffer is None:
            buffer = np.empty((rows or _default_rows(piece.shape[1], dtype), piece.shape[1]), np.float32)
        if piece.shape[1] != buffer.shape[1]:
            raise DataError(f"vectors of {buffer.shape[1]} and of {piece.shape[1]} numbers", where=uri, fix="give embeddings of one model")
        at = 0
        while at < len(piece):
            take = min(len(buffer) - filled, len(piece) - at)
            buffer[filled : filled + take] = piece[at : at + take]
            filled, at = filled + take, at + take
            if filled == len(buffer):
                yield buffer
                filled = 0
    if buffer is not None and filled:
        yield buffer[:filled]


def _check_keys(names: pa.Array, uri: str) -> None:
    if names.null_count:
        raise DataError("a key is null", where=uri, fix="give every row its own key")
    if len(pc.unique(names)) != len(names):
        counts = pc.value_counts(names)
        doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise DataError(f"two vectors are called '{doubled[:60]}'", where=uri, fix="give every row its own key")


def _check_norms(block: Floats, keys: pa.Array, first: int, uri: str) -> None:
    norms = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
    if wrong.size:
        place = first + int(wrong[0])
        name = keys[place].as_py()[:60] if place < len(keys) else f"row {place}"
        what = f"the vector of '{name}' has length {norms[wrong[0]]:.4g}, not 1"
        raise DataError(what, where=uri, fix="normalise the embeddings; if they are NaN or zero, compute them again")


def _before(storage: Storage) -> VectorSet | None:
    """Return the whole set that already lies here, if any."""
    try:
        return open_vectors(storage.uri)
    except DataError:
        return None


def _write_keys(storage: Storage, names: pa.Array) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": names}), sink, compression="zstd")
    storage.write_bytes(KEYS, sink.getvalue().to_pybytes())
