"""Copies of images as they turn up on the web: re-encoded, cropped, rescaled, flipped; the same bytes whenever they are made again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, features

from fgray.data.decode import ImageError, decode_image
from fgray.data.importers import Record
from fgray.data.index import MANIFEST, ImageIndex
from fgray.data.shards import build_shards
from fgray.errors import DataError
from fgray.storage import open_storage

RECIPE = 1  # counts up whenever a transform changes
GOOD_QUALITY = 90  # JPEG quality of what is not re-encoded on purpose
READ_ROWS = 64  # source images in memory at a time

Transform = Callable[[Image.Image, Sequence[float]], bytes]


def reencoded(image: Image.Image, draws: Sequence[float]) -> bytes:
    """Return the picture as JPEG of quality 30 to 75."""
    return _jpeg(image, 30 + int(draws[0] * 46))


def cropped(image: Image.Image, draws: Sequence[float]) -> bytes:
    """Return a window of 70 to 95 % of each side, anywhere in the picture."""
    width, height = (max(1, round(side * (0.70 + 0.25 * draw))) for side, draw in zip(image.size, draws[:2], strict=True))
    left, top = round((image.width - width) * draws[2]), round((image.height - height) * draws[3])
    return _jpeg(image.crop((left, top, left + width, top + height)), GOOD_QUALITY)


def rescaled(image: Image.Image, draws: Sequence[float]) -> bytes:
    """Return the picture at 50 to 90 % of its size."""
    factor = 0.50 + 0.40 * draws[0]
    return _jpeg(image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC), GOOD_QUALITY)


def flipped(image: Image.Image, draws: Sequence[float]) -> bytes:
    """Return the mirror image, left and right exchanged."""
    return _jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), GOOD_QUALITY)


TRANSFORMS: Mapping[str, Transform] = {made.__name__: made for made in (reencoded, cropped, rescaled, flipped)}


def make_copies(sources: pa.Table, seed: int, store_uri: str, max_pixels: int) -> ImageIndex:
    """Return an index of every transform of every source; they are made where the store does not hold them yet.

    Args:
        sources: columns of `fgray.data.index.INDEX_SCHEMA` and ``root``, the folder that `shard` starts from; distinct keys.
        seed: seed of the crops, qualities and sizes; a copy depends on it and on the content of its source, on nothing else.
        store_uri: the result store; the copies lie below ``audit/`` there.
        max_pixels: see `decode_image`.

    Returns:
        Keys ``audit/TRANSFORM/KEY``.

    Raises:
        DataError: a source cannot be decoded.
        StorageError: something cannot be read or written.
    """
    digests = [digest.hex() for digest in sources["sha256"].to_pylist()]
    libraries = {name: features.version(name) for name in ("pil", "jpg", "libjpeg_turbo")}
    parts = {
        "recipe": RECIPE,
        "seed": seed,
        "libraries": libraries,
        "sources": sorted(zip(sources["key"].to_pylist(), digests, strict=True)),
    }
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    folder = open_storage(store_uri).child(f"audit/{name}")
    if not folder.exists(MANIFEST):
        build_shards(_Copies(sources, seed, max_pixels), folder.uri)
    return ImageIndex.load(folder.uri, folder)


def copy_key(transform: str, key: str) -> str:
    """Return the new key of a copy."""
    return f"audit/{transform}/{key}"


class _Copies:
    """The copies as a source of shards."""

    schema: pa.Schema | None = None

    def __init__(self, sources: pa.Table, seed: int, max_pixels: int) -> None:
        self._sources = sources.sort_by([("root", "ascending"), ("shard", "ascending"), ("offset", "ascending"), ("key", "ascending")])
        self._seed, self._max_pixels = seed, max_pixels

    def records(self) -> Iterator[Record]:
        """Yield every copy, those of one source after each other."""
        for root in dict.fromkeys(self._sources["root"].to_pylist()):
            own = self._sources.filter(pc.equal(self._sources["root"], root))
            index = ImageIndex(root, own)
            for first in range(0, own.num_rows, READ_ROWS):
                rows = own.slice(first, READ_ROWS)
                for key, digest, data in zip(rows["key"].to_pylist(), rows["sha256"].to_pylist(), index.read(rows), strict=True):
                    image = self._decode(key, root, data)
                    for name, transform in TRANSFORMS.items():
                        copied = transform(image, _draws(self._seed, name, digest))
                        yield Record(copy_key(name, key), "jpg", copied, {"source": key, "transform": name})

    def _decode(self, key: str, root: str, data: bytes) -> Image.Image:
        try:
            image = decode_image(data, self._max_pixels)
        except ImageError as error:
            fix = "run the same command again; if it stays, leave that image out of the pairs"
            raise DataError(f"image '{key}' cannot be copied for the audit ({error})", where=root, fix=fix) from error
        return Image.fromarray(np.asarray(image))  # without colour profile and comments, which saving would carry over


def _draws(seed: int, transform: str, digest: bytes) -> list[float]:
    """Return four numbers in [0, 1) that depend on the arguments only, not on a library's generator."""
    mixed = hashlib.sha256(f"{seed}\0{transform}\0".encode() + digest).digest()
    return [int.from_bytes(mixed[at : at + 6], "big") / 2**48 for at in (0, 6, 12, 18)]


def _jpeg(image: Image.Image, quality: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()
