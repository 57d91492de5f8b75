"""Perceptual hashes that survive re-encoding, rescaling, mirroring and cropping.

A hash is 64 bits as in pHash: the signs, about their median, of an image's lowest cosine coefficients of brightness. One hash
per image is weak against crops, so an image gets a bank: its whole frame, the mirrored frame, and a grid of windows. Two images
are as far apart as the nearest pair of a frame (plain or mirrored) of one and any window of the other, either way round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa
from PIL import Image

from fgray.data.index import ImageIndex
from fgray.embedding import Compute, image_requests
from fgray.embedding.stages import ReadDecode
from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.stages import Arrays, Chunk, Stage
from fgray.engine.store import ResultStore
from fgray.engine.units import make_units, missing_items

KIND = "hash_image"
SIZE = 128  # pixels of a side that windows are cut from
FREQUENCIES = 8  # per axis: 64 bits
STRETCHES = ((1.0, 1), (0.92, 2), (0.84, 3), (0.76, 4))  # share of a side, and how many places of it a window may start from
_VERSION = 1

Bank = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Hashes:
    """Hashes of N images.

    Attributes:
        bank: uint64 [N, B]; column 0 is the whole frame, column 1 the mirrored frame, the others are windows.
        known: bool [N]; False where an image could not be decoded, and its row means nothing.
    """

    bank: Bank
    known: npt.NDArray[np.bool_]


@cache
def _intervals() -> tuple[tuple[float, float], ...]:
    """Return (start, end) of the stretches of an axis, the whole one first."""
    return tuple((start, start + share) for share, count in STRETCHES for start in np.linspace(0, 1 - share, count).tolist())


@cache
def windows() -> tuple[tuple[float, float, float, float], ...]:
    """Return (left, top, right, bottom) of every column of a bank, as shares of the sides; column 1 is the whole frame, mirrored."""
    places = [(left, top, right, bottom) for top, bottom in _intervals() for left, right in _intervals()]
    return (places[0], *places)


@cache
def _basis() -> npt.NDArray[np.float64]:
    """Return the cosines of every stretch, integrated over pixels: float64 [stretches, FREQUENCIES, SIZE].

    ∫ cos(πku) du over the part of a pixel that lies in the stretch, u running from 0 to 1 along it.
    """
    edges = np.arange(SIZE + 1) / SIZE
    k = np.arange(FREQUENCIES)[:, None]
    rows = []
    for start, end in _intervals():
        u = np.clip((edges - start) / (end - start), 0, 1)
        rows.append(np.diff(u * np.sinc(k * u), axis=1))  # ∫ cos(πku) du = sin(πku)/(πk) = u sinc(ku)
    return np.stack(rows)


def hash_bank(pixels: npt.NDArray[np.uint8]) -> Bank:
    """Return the hashes of pictures of SIZE x SIZE: uint8 [N, SIZE, SIZE, 3] -> uint64 [N, B]."""
    light = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's convert("L")
    basis = _basis()
    stacked = basis.reshape(-1, SIZE)
    count = len(basis)
    coefficients = (stacked @ light @ stacked.T).reshape(-1, count, FREQUENCIES, count, FREQUENCIES)
    windows = coefficients.transpose(0, 1, 3, 2, 4).reshape(-1, count * count, FREQUENCIES, FREQUENCIES)
    mirrored = windows[:, :1] * (-1.0) ** np.arange(FREQUENCIES)  # mirroring negates the odd cosines along the row
    return _bits(np.concatenate([windows[:, :1], mirrored, windows[:, 1:]], axis=1))


def _bits(coefficients: npt.NDArray[np.float64]) -> Bank:
    flat = coefficients.reshape(*coefficients.shape[:2], -1)
    above = flat > np.median(flat[..., 1:], axis=-1, keepdims=True)
    above[..., 0] = False  # mean brightness says nothing
    return np.packbits(above, axis=-1).view(np.uint64)[..., 0]


def distances(left: Bank, right: Bank) -> npt.NDArray[np.uint8]:
    """Return how many bits pairs of images differ in: banks [m, B] and [m, B] -> uint8 [m]."""
    best = np.full(len(left), 64, np.uint8)
    for ours, theirs in ((left, right), (right, left)):
        for frame in (0, 1):  # plain, mirrored
            np.minimum(best, np.bitwise_count(ours ^ theirs[:, frame, None]).min(axis=1), out=best)
    return best


class Shrink:
    """Resizes to SIZE x SIZE whatever the shape was; averages, so that small changes stay small."""

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return uint8 [SIZE, SIZE, 3]."""
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


class HashImages:
    """The stage: reads, decodes, hashes."""

    def __init__(self, max_pixels: int) -> None:
        self.read = ReadDecode(Shrink(), (SIZE, SIZE), max_pixels)

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``value``, uint64 [n, B]."""
        return {"value": hash_bank(self.read(chunk)["pixels"])}


def fingerprint() -> str:
    """Return what the store keeps hashes under: it changes with everything that changes a hash."""
    facts = repr((_VERSION, SIZE, FREQUENCIES, STRETCHES))
    return "phash-" + hashlib.sha256(facts.encode()).hexdigest()[:16]


def hash_images(places: Sequence[tuple[ImageIndex, Sequence[str]]], store_uri: str, compute: Compute, max_pixels: int) -> Hashes:
    """Hash images, those that the store lacks, and return all of them in order.

    Raises:
        FgrayError: an image cannot be read.
    """
    requests = [image_requests(index, keys, fingerprint(), max_pixels, KIND) for index, keys in places if len(keys)]
    if not requests:
        return Hashes(np.zeros((0, len(_intervals()) ** 2 + 1), np.uint64), np.zeros(0, bool))
    table = pa.concat_tables(requests)
    store = ResultStore(store_uri, fingerprint())
    missing = missing_items(table, store.stored_ids(KIND)).sort_by([(name, "ascending") for name in ("root", "shard", "offset", "row")])
    units = make_units(KIND, missing, compute.unit_rows, group="root")
    stages = [Stage("hash", partial(HashImages, max_pixels), workers=max(compute.workers, compute.decode_workers))]
    with Progress(units=len(units), items=missing.num_rows, stages=stages, stored=table.num_rows - missing.num_rows) as progress:
        run_units(units, stages, store, {"pillow": PIL.__version__}, compute.runner, progress)
    ids = table["item_id"].combine_chunks()
    results = store.read(KIND, ids)
    return Hashes(results.values, np.array([error is None for error in results.errors]))
