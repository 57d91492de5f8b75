"""The vectors that are searched: embedded by a model through the engine, or read from files made elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgray.config.schema import Dtype, MineJob, PrecomputedModel
from fgray.data.negatives import DIRECTIONS
from fgray.data.pairs import PairSet
from fgray.embedding import Compute, Embedded, Work, embed, image_requests, plan_work, resolve_compute, text_requests
from fgray.engine.store import ResultStore
from fgray.errors import DataError, RunError, did_you_mean
from fgray.mining.candidates import Kind
from fgray.mining.vectors import VectorSet, write_vectors
from fgray.models import open_model
from fgray.models.base import ModelSource
from fgray.models.fingerprint import digest_of
from fgray.runs import ITEM_SCHEMA, QUARANTINE_SCHEMA
from fgray.storage import open_storage

CHUNK = 65_536  # rows gathered at a time
Predict = Callable[[Work, ModelSource, Compute], Mapping[str, Any]]


class Embeddings(ABC):
    """Where a mining run's vectors come from.

    Attributes:
        source: the model, or None where the vectors were made elsewhere.
        compute: workers and batches of the run.
        card: what run.json says of the model.
        fingerprint: hash of what made the vectors.
        items: what the run reads from the result store; known after `prepare`.
        predict: says what the embedding will take, before it begins; None: nobody asks.
        plan: what it said, and `timing` what was measured; known after `prepare`.
    """

    source: ModelSource | None
    compute: Compute
    card: Mapping[str, Any]
    fingerprint: str
    items: pa.Table = ITEM_SCHEMA.empty_table()
    predict: Predict | None = None
    plan: Mapping[str, Any] = MappingProxyType({})
    timing: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def prepare(self, sets: Sequence[PairSet]) -> tuple[list[PairSet], pa.Table]:
        """Make every vector that is still missing.

        Returns:
            the pairs without images and texts that have none, and those as rows of ``QUARANTINE_SCHEMA``.
        """

    @abstractmethod
    def vectors(self, kind: Kind, keys: Sequence[str], dtype: Dtype, folder: str) -> VectorSet:
        """Write the vectors of images or texts, in the order of the keys, below `folder`, unless they are there."""


def needed(job: MineJob, sets: Sequence[PairSet], fingerprint: str) -> tuple[list[pa.Table], list[pa.Table]]:
    """Return what a model must embed of each set, images and texts: those of a kind that no direction looks at are left out.

    Raises:
        DataError: a direction needs images, and it is not known where they lie.
    """
    kinds = {kind for direction in job.directions for kind in DIRECTIONS[direction]}
    images, texts = [], []
    for what, pairs in zip(("pairs", "corpus"), sets, strict=False):
        keys = pairs.images if "image" in kinds else []
        if keys and not pairs.index.table.num_rows:
            fix = f"name their folder as {what}.images, or mine text_to_text"
            raise DataError(f"the {what} do not say where their images lie", where=what, fix=fix)
        images.append(image_requests(pairs.index, keys, fingerprint, job.data.max_pixels))
        texts.append(text_requests(pairs.texts if "text" in kinds else [], fingerprint))
    return images, texts


def open_embeddings(job: MineJob, previous: Mapping[str, Any] | None) -> Embeddings:
    """Return where the job's vectors come from.

    Args:
        job: the configuration.
        previous: `compute` of an interrupted run on this output.

    Raises:
        FgrayError: the model cannot be opened, or a file of embeddings is wrong.
    """
    if isinstance(job.model, PrecomputedModel):
        return _FromFiles(job, job.model, previous)
    return _FromModel(job, previous)


def _folder_of(folder: str, fingerprint: str, kind: str, keys: Sequence[str], dtype: str) -> str:
    digest = hashlib.sha256(json.dumps([fingerprint, kind, dtype]).encode())
    for key in keys:
        digest.update(len(key).to_bytes(4, "big") + key.encode())
    return f"{folder}/{kind}-{digest.hexdigest()[:16]}"


class _FromModel(Embeddings):
    """Embeds through the engine; the result store keeps everything in fp32."""

    def __init__(self, job: MineJob, previous: Mapping[str, Any] | None) -> None:
        self.source = self._model = open_model(job.model)
        self.compute = resolve_compute(job.compute, self._model, previous)
        self.card, self.fingerprint = self._model.card.to_dict(), self._model.fingerprint()
        self._job = job
        self._embedded: Embedded | None = None
        self._rows: dict[str, dict[str, int]] = {}

    def prepare(self, sets: Sequence[PairSet]) -> tuple[list[PairSet], pa.Table]:
        """See `Embeddings.prepare`."""
        limit = self._job.data.max_pixels
        images, texts = needed(self._job, sets, self.fingerprint)
        store = ResultStore(self._job.store_uri, self.fingerprint)
        work = plan_work(pa.concat_tables(images), pa.concat_tables(texts), store, self.compute.unit_rows)
        self.items = work.items()
        if self.predict is not None:
            self.plan = self.predict(work, self._model, self.compute)
        self._embedded, progress = embed(work, self._model, store, self.compute, limit)
        self.timing = progress.measured()
        failed: list[dict[str, Any]] = []
        bad: dict[str, list[str]] = {"image": [], "text": []}
        for kind, column, tables, rows, results in (
            ("image", "key", images, self._embedded.image_rows, self._embedded.images),
            ("text", "text", texts, self._embedded.text_rows, self._embedded.texts),
        ):
            found = self._rows[kind] = {}
            for table in tables:
                shards = table["shard"].to_pylist() if kind == "image" else [""] * table.num_rows
                for key, id_, shard in zip(table[column].to_pylist(), table["item_id"].to_pylist(), shards, strict=True):
                    if key not in found and results.errors[rows[id_]]:
                        stage, _, reason = (results.errors[rows[id_]] or "").partition(": ")
                        failed.append({"benchmark": self._job.pairs.name, "key": key, "shard": shard, "stage": stage, "error": reason})
                        bad[kind].append(key)
                    found[key] = rows[id_]
        self._refuse_many(len(failed), work.requested)
        kept = [_without(pairs, bad) for pairs in sets] if failed else list(sets)
        return kept, pa.Table.from_pylist(sorted(failed, key=lambda row: row["key"]), schema=QUARANTINE_SCHEMA)

    def vectors(self, kind: Kind, keys: Sequence[str], dtype: Dtype, folder: str) -> VectorSet:
        """See `Embeddings.vectors`."""
        assert self._embedded is not None
        values = (self._embedded.images if kind == "image" else self._embedded.texts).values
        rows = np.fromiter((self._rows[kind][key] for key in keys), np.int64, len(keys))
        pieces = (values[rows[start : start + CHUNK]] for start in range(0, len(rows), CHUNK))
        return write_vectors(_folder_of(folder, self.fingerprint, kind, keys, dtype), keys, pieces, dtype)

    def _refuse_many(self, failed: int, requested: int) -> None:
        tolerated = self._job.data.max_corrupt_fraction
        if failed > tolerated * requested:
            what = f"{failed} of {requested} items cannot be computed, more than data.max_corrupt_fraction = {tolerated:g} allows"
            raise RunError(what, where=f"{self._job.output}/quarantine.parquet", fix="mend or remove those files, or raise the fraction")


def _without(pairs: PairSet, bad: Mapping[str, Sequence[str]]) -> PairSet:
    dropped = pc.or_(*(pc.is_in(pairs.table[kind], value_set=pa.array(keys, pa.string())) for kind, keys in bad.items()))
    return PairSet(pairs.table.filter(pc.invert(dropped)), pairs.index)


class _FromFiles(Embeddings):
    """Streams rows of ``.npy`` files; a local file is mapped, never read whole."""

    source = None

    def __init__(self, job: MineJob, model: PrecomputedModel, previous: Mapping[str, Any] | None) -> None:
        if model.image_embeddings is None or model.text_embeddings is None:
            raise DataError("scores of pairs cannot be searched", where="model", fix="give image_embeddings and text_embeddings")
        self.compute = resolve_compute(job.compute, None, previous)
        self._uris: dict[str, str] = {"image": model.image_embeddings, "text": model.text_embeddings}
        files = [name for uri in self._uris.values() for name in (uri, _keys_of(uri))]
        self.fingerprint = digest_of({"kind": "precomputed", "files": [_sha256(uri) for uri in files]})
        self.card = {"name": model.name, "kind": "precomputed"}

    def prepare(self, sets: Sequence[PairSet]) -> tuple[list[PairSet], pa.Table]:
        """See `Embeddings.prepare`; a missing vector fails when it is read."""
        return list(sets), QUARANTINE_SCHEMA.empty_table()

    def vectors(self, kind: Kind, keys: Sequence[str], dtype: Dtype, folder: str) -> VectorSet:
        """See `Embeddings.vectors`.

        Raises:
            DataError: a key has no row, or the file is no array of numbers.
        """
        uri = self._uris[kind]
        names, values = _read_keys(_keys_of(uri)), _open_array(uri)
        if len(names) != len(values):
            fix = "write one key a line, in the order of the rows"
            raise DataError(f"{len(names)} keys for {len(values)} rows", where=_keys_of(uri), fix=fix)
        rows = pc.index_in(pa.array(keys, pa.large_string()), value_set=names)
        if rows.null_count:
            missing = keys[pc.index(pc.is_null(rows), True).as_py()]
            fix = did_you_mean(missing, names.slice(0, 1000).to_pylist())[:200]
            raise DataError(f"there is no {kind} embedding of '{missing[:60]}'", where=uri, fix=fix)
        places = rows.to_numpy()
        return write_vectors(_folder_of(folder, self.fingerprint, kind, keys, dtype), keys, _unit_rows(values, places), dtype)


def _keys_of(uri: str) -> str:
    return uri.removesuffix(".npy") + ".keys.txt"


def _split(uri: str) -> tuple[str, str]:
    folder, _, name = uri.rpartition("/")
    return folder or ("/" if uri.startswith("/") else "."), name


def _sha256(uri: str) -> str:
    folder, name = _split(uri)
    storage, digest = open_storage(folder), hashlib.sha256()
    size, step = storage.stat(name).size, 16 << 20
    for offset in range(0, size, step):
        digest.update(storage.read_bytes(name, offset, min(step, size - offset)))
    return digest.hexdigest()


def _read_keys(uri: str) -> pa.Array:
    folder, name = _split(uri)
    try:
        text = open_storage(folder).read_bytes(name).decode()
    except UnicodeDecodeError as error:
        raise DataError("the keys are not UTF-8 text", where=uri, fix="save them as UTF-8, one key a line") from error
    keys = pa.array(text.replace("\r\n", "\n").removesuffix("\n").split("\n"), pa.large_string())
    if len(pc.unique(keys)) != len(keys):
        raise DataError("a key stands twice", where=uri, fix="keep one row of each key")
    return keys


def _open_array(uri: str) -> npt.NDArray[Any]:
    folder, name = _split(uri)
    storage = open_storage(folder)
    try:
        if storage.is_local:
            values = np.load(Path(storage.uri) / name, mmap_mode="r", allow_pickle=False)
        else:
            values = np.load(io.BytesIO(storage.read_bytes(name)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError("the file is no plain .npy of numbers", where=uri, fix="save a float32 array [N, D]") from error
    if values.ndim != 2 or 0 in values.shape or not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"embeddings are {values.dtype} {list(values.shape)}", where=uri, fix="save a float array [N, D]")
    found: npt.NDArray[Any] = values
    return found


def _unit_rows(values: npt.NDArray[Any], rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(rows), CHUNK):
        block = values[rows[start : start + CHUNK]].astype(np.float64)
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            yield (block / norms).astype(np.float32)  # a zero row becomes NaN, which `write_vectors` refuses by its key
