"""The stages that answer embedding requests: read and decode, then the model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from fgray.data.decode import ImageError, decode_image
from fgray.data.index import ImageIndex
from fgray.embedding.compute import Compute, machine_numerics
from fgray.embedding.regions import embed_placed, pictures_at_once, read_crops, read_placed
from fgray.embedding.requests import REGION, TEXT
from fgray.engine.stages import Arrays, Chunk, Stage, StageFunction
from fgray.errors import ModelError
from fgray.models.base import DenseSource, Embeddings, ImagePreprocess, ModelSource, Pixels, RegionEncoder

READ_AHEAD_THREADS = 4  # decoding threads of one decode worker: PIL releases the interpreter lock


class ReadDecode:
    """Reads a unit's images by byte range, decodes and preprocesses them; passes texts through.

    An undecodable image becomes a black one with an entry in ``chunk.errors``; all of its regions have one.
    """

    def __init__(
        self,
        preprocess: ImagePreprocess,
        image_size: tuple[int, int],
        max_pixels: int,
        threads: int = READ_AHEAD_THREADS,
        dense: DenseSource | None = None,
    ) -> None:
        self.preprocess, self.size, self.max_pixels, self.threads, self.dense = preprocess, image_size, max_pixels, threads, dense

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``pixels``, uint8 [n, H, W, 3]; for regions see `read_crops` and `read_placed`."""
        if chunk.kind == TEXT:
            return {}
        if chunk.kind == REGION:
            with ThreadPoolExecutor(self.threads) as pool:
                decode = partial(decode_image, max_pixels=self.max_pixels)
                if chunk.items["crop"][0].as_py():
                    return read_crops(chunk, decode, pool, self.size)
                return read_placed(chunk, decode, pool, self.size, self._cell_size)
        root = chunk.items["root"][0].as_py()
        encoded = ImageIndex(root, chunk.items.drop_columns(["item_id", "root"])).read(chunk.items)
        pixels = np.zeros((len(encoded), *self.size, 3), np.uint8)
        with ThreadPoolExecutor(self.threads) as pool:
            for row, result in enumerate(pool.map(self._decode, encoded)):
                if isinstance(result, str):
                    chunk.errors[row] = f"decode: {result}"
                else:
                    pixels[row] = result
        return {"pixels": pixels}

    @cached_property
    def _cell_size(self) -> int:
        """The side in px of a cell of the dense features; asking builds the architecture."""
        if self.dense is None:
            raise ModelError("the model gives no dense features", fix="use crops of the regions (mode crop)")
        return self.dense.cell_size()

    def _decode(self, data: bytes) -> npt.NDArray[np.uint8] | str:
        try:
            return self.preprocess(decode_image(data, self.max_pixels))
        except ImageError as error:
            return str(error)


class Embed:
    """Runs the model over a unit in batches of one fixed size; short ones repeat their last item, so that no row sees the rest."""

    def __init__(self, source: ModelSource, device: str, batch_size: int) -> None:
        self.model, self.batch, self.size = source.load(device), batch_size, source.card.image_size

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``value``, fp32 [n, D] unit rows; for texts also ``truncated``, bool [n]."""
        if chunk.kind == TEXT:
            result = self.model.embed_texts(chunk.items["text"].to_pylist())  # pads by itself: a row must not depend on their number
            return {"value": result.values, "truncated": result.truncated}
        if chunk.kind == REGION and "picture_of" in chunk.arrays:
            if not isinstance(self.model, RegionEncoder):
                raise ModelError(
                    "the model gives no dense features", where=self.model.card.name, fix="use crops of the regions (mode crop)"
                )
            pictures = pictures_at_once(self.batch, chunk.items["size"][0].as_py(), self.size)
            return {"value": embed_placed(chunk.arrays, self.model, pictures)}
        return {"value": self._images(chunk.arrays["pixels"])}

    def _images(self, pixels: Pixels) -> Embeddings:
        values = []
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            padding = np.repeat(part[-1:], self.batch - len(part), axis=0)
            values.append(self.model.embed_images(np.concatenate([part, padding]))[: len(part)])
        return np.concatenate(values)


def _build_decode(source: ModelSource, max_pixels: int) -> StageFunction:
    dense = source if isinstance(source, DenseSource) else None
    return ReadDecode(source.preprocess, source.card.image_size, max_pixels, dense=dense)


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
            numerics=partial(machine_numerics, compute.device),
        ),
    ]
