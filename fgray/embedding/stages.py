"""The stages that answer embedding requests: read and decode, then the model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from fgray.data.decode import ImageError, decode_image
from fgray.data.index import ImageIndex
from fgray.embedding.compute import Compute
from fgray.embedding.requests import TEXT
from fgray.engine.stages import Arrays, Chunk, Stage, StageFunction
from fgray.models.base import ImagePreprocess, ModelSource

READ_AHEAD_THREADS = 4  # decoding threads of one decode worker: PIL releases the interpreter lock


class ReadDecode:
    """Reads a unit's images by byte range, decodes and preprocesses them; passes texts through.

    An undecodable image becomes a black one with an entry in ``chunk.errors``.
    """

    def __init__(
        self, preprocess: ImagePreprocess, image_size: tuple[int, int], max_pixels: int, threads: int = READ_AHEAD_THREADS
    ) -> None:
        self.preprocess, self.shape, self.max_pixels, self.threads = preprocess, (*image_size, 3), max_pixels, threads

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``pixels``, uint8 [n, H, W, 3]."""
        if chunk.kind == TEXT:
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
    """Runs the model over a unit in batches of one fixed size; short ones repeat their last item, so that no row sees the rest."""

    def __init__(self, source: ModelSource, device: str, batch_size: int) -> None:
        self.model, self.batch = source.load(device), batch_size

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``value``, fp32 [n, D] unit rows; for texts also ``truncated``, bool [n]."""
        if chunk.kind == TEXT:
            result = self.model.embed_texts(chunk.items["text"].to_pylist())  # pads by itself: a row must not depend on their number
            return {"value": result.values, "truncated": result.truncated}
        pixels = chunk.arrays["pixels"]
        values = []
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            padding = np.repeat(part[-1:], self.batch - len(part), axis=0)
            values.append(self.model.embed_images(np.concatenate([part, padding]))[: len(part)])
        return {"value": np.concatenate(values)}


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
