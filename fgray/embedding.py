"""Embeds images and texts: requests, the stages that answer them, and the table of answers.

Evaluation and mining both stand on this: they say which images and texts they need, and get fp32 embeddings that are
computed once per model and kept in the result store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.config.schema import ComputeConfig
from fgray.data.decode import ImageError, decode_image
from fgray.data.index import ImageIndex
from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.stages import Arrays, Chunk, Stage, StageFunction
from fgray.engine.store import Results, ResultStore
from fgray.engine.units import ID_TYPE, Unit, item_id, make_units, missing_items
from fgray.models.base import ImagePreprocess, ModelSource

IMAGE, TEXT = "embed_image", "embed_text"
CHUNK_BYTES = 128 << 20  # decoded pixels of a unit on a GPU
CPU_UNIT_BATCHES = 2  # a CPU worker needs seconds for that, which is what a killed worker may cost
READ_AHEAD_THREADS = 4  # decoding threads of one decode worker: PIL releases the interpreter lock


@dataclass(frozen=True)
class Compute:
    """`ComputeConfig` with every "auto" resolved; kept in run.json so that a resumed run computes alike."""

    runner: Literal["ray", "serial"]
    device: str
    workers: int
    decode_workers: int
    batch_size: int
    unit_rows: int
    threads: int

    def numerics(self, source: ModelSource) -> dict[str, Any]:
        """Return the numerics class: equal classes give equal bytes, others agree to about 1e-5."""
        packages = {name: version(name) for name in ("torch", "pillow", "numpy")}
        return {
            "device": device_name(self.device),
            "dtype": source.card.dtype,
            "batch": self.batch_size,
            "threads": self.threads,
            **packages,
        }


def resolve_compute(config: ComputeConfig, source: ModelSource) -> Compute:
    """Replace every "auto" by what suits this machine and model."""
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device.startswith("cuda")
    cores = os.cpu_count() or 1
    workers = (
        config.workers if config.workers != "auto" else (max(1, torch.cuda.device_count()) if on_gpu else max(1, cores // config.threads))
    )
    decoders = config.decode_workers if config.decode_workers != "auto" else (cores if on_gpu else max(1, cores // 4))
    batch = config.batch_size if config.batch_size != "auto" else (256 if on_gpu else 32)
    rows = config.unit_rows
    if rows == "auto":
        height, width = source.card.image_size
        rows = batch * max(1, CHUNK_BYTES // (height * width * 3) // batch) if on_gpu else batch * CPU_UNIT_BATCHES
    return Compute(config.runner, device, workers, decoders, batch, rows, config.threads)


def device_name(device: str) -> str:
    """Return the device kind that numerics depend on."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name()
    return "cpu"


# --- requests ---------------------------------------------------------------------------------------------------------


def image_requests(index: ImageIndex, keys: Sequence[str], fingerprint: str) -> pa.Table:
    """Return one row per key, in order: item_id and where the image lies (the columns of the index).

    Raises:
        DataError: a key is not in the index.
    """
    rows = index.locate(keys)
    ids = [item_id(IMAGE, fingerprint, digest) for digest in rows["sha256"].to_pylist()]
    root = pa.array([index.root_uri] * rows.num_rows, pa.string())
    return rows.append_column("item_id", pa.array(ids, ID_TYPE)).append_column("root", root)


def text_requests(texts: Sequence[str], fingerprint: str) -> pa.Table:
    """Return one row per text, in order: item_id and text."""
    ids = [item_id(TEXT, fingerprint, text.encode()) for text in texts]
    return pa.table({"item_id": pa.array(ids, ID_TYPE), "text": pa.array(list(texts), pa.string())})


@dataclass(frozen=True)
class Work:
    """What a run asks of a model, and what of it the store lacks.

    Attributes:
        images, texts: distinct requested items.
        units: the missing ones, cut into units.
        missing: how many items those are.
    """

    images: pa.Table
    texts: pa.Table
    units: list[Unit]

    @property
    def requested(self) -> int:
        """Return the number of distinct items asked for."""
        return self.images.num_rows + self.texts.num_rows

    @property
    def missing(self) -> int:
        """Return the number of items to compute."""
        return sum(unit.items.num_rows for unit in self.units)


def plan_work(images: pa.Table, texts: pa.Table, store: ResultStore, unit_rows: int) -> Work:
    """Subtract what is stored from what is requested and cut the rest into units, image units by shard and offset."""
    nothing = pa.array([], ID_TYPE)
    wanted_images = missing_items(images, nothing).sort_by(
        [("root", "ascending"), ("shard", "ascending"), ("offset", "ascending"), ("row", "ascending")]
    )
    wanted_texts = missing_items(texts, nothing)
    new_images = missing_items(wanted_images, store.stored_ids(IMAGE))
    new_texts = missing_items(wanted_texts, store.stored_ids(TEXT))
    units = make_units(TEXT, new_texts, unit_rows) + make_units(IMAGE, new_images, unit_rows, group="root")
    return Work(wanted_images, wanted_texts, units)


# --- stages -----------------------------------------------------------------------------------------------------------


class ReadDecode:
    """Reads a unit's images by byte range, decodes and preprocesses them; passes texts through.

    An undecodable image becomes a black one with an entry in ``chunk.errors``.
    """

    def __init__(
        self, preprocess: ImagePreprocess, image_size: tuple[int, int], max_pixels: int, threads: int = READ_AHEAD_THREADS
    ) -> None:
        self.preprocess, self.shape, self.max_pixels, self.threads = preprocess, (*image_size, 3), max_pixels, threads

    def __call__(self, chunk: Chunk) -> Arrays:
        if chunk.kind != IMAGE:
            return {}
        root = chunk.items["root"][0].as_py()
        encoded = ImageIndex(root, chunk.items.drop_columns(["item_id", "root"])).read(chunk.items)
        pixels = np.zeros((len(encoded), *self.shape), np.uint8)
        with ThreadPoolExecutor(self.threads) as pool:
            for row, result in enumerate(pool.map(self._decode, encoded)):
                if isinstance(result, str):
                    chunk.errors[row] = f"decode: {result}"
                else:
                    pixels[row] = result
        return {"pixels": pixels}

    def _decode(self, data: bytes) -> npt.NDArray[np.uint8] | str:
        try:
            return self.preprocess(decode_image(data, self.max_pixels))
        except ImageError as error:
            return str(error)


class Embed:
    """Runs the model over a unit in batches of one fixed size; short ones are padded, so that no row sees the rest."""

    def __init__(self, source: ModelSource, device: str, batch_size: int) -> None:
        self.model, self.batch = source.load(device), batch_size

    def __call__(self, chunk: Chunk) -> Arrays:
        if chunk.kind == TEXT:
            return self._texts(chunk.items["text"].to_pylist())
        pixels = chunk.arrays["pixels"]
        values = []
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            padding = np.zeros((self.batch - len(part), *part.shape[1:]), np.uint8)
            values.append(self.model.embed_images(np.concatenate([part, padding]))[: len(part)])
        return {"value": np.concatenate(values)}

    def _texts(self, texts: list[str]) -> Arrays:
        values, truncated = [], []
        for start in range(0, len(texts), self.batch):
            part = texts[start : start + self.batch]
            result = self.model.embed_texts([*part, *[""] * (self.batch - len(part))])
            values.append(result.values[: len(part)])
            truncated.append(result.truncated[: len(part)])
        return {"value": np.concatenate(values), "truncated": np.concatenate(truncated)}


def _build_decode(source: ModelSource, max_pixels: int) -> StageFunction:
    return ReadDecode(source.preprocess, source.card.image_size, max_pixels)


def _build_embed(source: ModelSource, compute: Compute) -> StageFunction:
    return Embed(source, compute.device, compute.batch_size)


def embedding_stages(source: ModelSource, compute: Compute, max_pixels: int) -> list[Stage]:
    """Return the pipeline decode -> model with its pools."""
    on_gpu = compute.device.startswith("cuda")
    return [
        Stage("decode", partial(_build_decode, source, max_pixels), workers=compute.decode_workers),
        Stage(
            "model",
            partial(_build_embed, source, compute),
            workers=compute.workers,
            cpus=compute.threads,
            gpus=1 if on_gpu else 0,
            threads=compute.threads,
        ),
    ]


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embedded:
    """Embeddings of distinct items and how to find them.

    Attributes:
        images, texts: results aligned with the ids.
        image_rows, text_rows: item id -> row.
    """

    images: Results
    texts: Results
    image_rows: Mapping[bytes, int]
    text_rows: Mapping[bytes, int]


def embed(work: Work, source: ModelSource, store: ResultStore, compute: Compute, max_pixels: int) -> tuple[Embedded, Progress]:
    """Compute what is missing, then read everything back from the store.

    Raises:
        FgrayError: storage stays away, the model cannot be loaded, or a worker failed.
        RunError: after the run an item is neither embedded nor quarantined.
    """
    stages = embedding_stages(source, compute, max_pixels)
    progress = Progress(units=len(work.units), items=work.missing, stages=stages, stored=work.requested - work.missing)
    with progress:
        run_units(work.units, stages, store, compute.numerics(source), compute.runner, progress)
    images, texts = work.images["item_id"].combine_chunks(), work.texts["item_id"].combine_chunks()
    rows = ({id_: row for row, id_ in enumerate(ids.to_pylist())} for ids in (images, texts))
    return Embedded(store.read(IMAGE, images), store.read(TEXT, texts), *rows), progress
