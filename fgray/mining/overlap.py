"""Refuses to train on, or mine from, images of evaluation sets: equal files, equal pictures, equal COCO ids.

Near perceptual hashes alone would refuse too much here, where every image is compared with every other one: at mining's distance (12),
1,031 of 2,500 Flickr8k train images have a match among the 500 of test, by chance. So they only say which pictures may be the same and
where; the pictures themselves decide, laid over each other (`fgray.mining.alignment`). What the hashes leave of 4.4 million pairs of
different photographs (Flickr8k train with its val and test, COCO, ImageNet and CUB), and of copies of 150 Flickr8k images; the pictures
then refuse all 66 at a distance of 8 (the likest reach 0.87) and no copy (of 100 each, the least like reaches 0.96):

| hash distance | 4 | 6 | 8 | 10 | 12 |
| --- | --- | --- | --- | --- | --- |
| pairs of different photographs | 0 | 4 | 66 | 600 | 5,400 |
| JPEG quality 30-90, rescaled 0.3-2x, mirrored, % | 100 | 100 | 100 | 100 | 100 |
| cropped to 90-100 % of each side, % | 73 | 93 | 99 | 100 | 100 |
| cropped to 70-95 % of each side, % | 31 | 65 | 85 | 95 | 99 |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from fgray.benchmarks.base import open_benchmark
from fgray.benchmarks.pairs import FILE, load_pairs
from fgray.config.schema import BenchmarkConfig
from fgray.data.decode import decode_image
from fgray.data.index import ImageIndex
from fgray.embedding import Compute
from fgray.errors import DataError
from fgray.mining.alignment import likeness, thumbnail
from fgray.mining.image_hash import Hashes, hash_images

HASH_DISTANCE = 8
LIKENESS = 0.95  # of two pictures laid over each other
_COCO = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})")  # one numbering for the releases of 2014, 2015 and 2017
_BLOCK = 512  # images whose hashes are compared at a time: 0.4 MB, which stays in a core's cache
_NAMED = 3  # overlaps that a message names
_NO_ROWS = np.zeros(0, np.int64)
_SAYS = {"file": "the same file", "picture": "the same picture", "coco": "the same COCO id"}


@dataclass(frozen=True)
class Overlap:
    """An image that an evaluation set has, too.

    Attributes:
        image: its key.
        other: key of the evaluation set's image.
        reason: ``file`` (equal bytes), ``picture`` (near perceptual hashes, and alike when laid over each other) or ``coco`` (equal COCO
            ids); the first that holds.
    """

    image: str
    other: str
    reason: Literal["file", "picture", "coco"]


def check_images(
    ours: Sequence[tuple[str, ImageIndex]],
    evaluation: Sequence[BenchmarkConfig],
    root: str | None,
    cache: str,
    compute: Compute,
    max_pixels: int,
) -> None:
    """Refuse images that evaluation sets have.

    Args:
        ours: (name, images) of what is trained on or mined from.
        evaluation: benchmarks, or pairs from files.
        root: where their data lies if they do not say.
        cache: folder or prefix for image indexes and hashes.
        compute: workers that hash images.
        max_pixels: larger images are not hashed; equal bytes and ids are found all the same.

    Raises:
        DataError: naming the first overlaps and their number.
        FgrayError: an evaluation set or an image cannot be read.
    """
    for config in evaluation:
        theirs = _images_of(config, root, cache)
        for name, index in ours:
            found = find_overlaps(index, theirs, cache, compute, max_pixels)
            if found:
                first = ", ".join(f"'{one.image}' is '{one.other}' ({_SAYS[one.reason]})" for one in found[:_NAMED])
                more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
                what = f"{len(found)} of the images are in the evaluation set {config.name}: {first}{more}"
                raise DataError(what, where=name, fix="take them out of the pairs and negatives, or the set out of disjoint_from")


def find_overlaps(ours: ImageIndex, theirs: ImageIndex, store: str, compute: Compute, max_pixels: int) -> list[Overlap]:
    """Return our images that are among theirs, each once, in the order of our index.

    Every hash is compared with every other, about 400 numbers per pair of images: 10^8 pairs take a core about three quarters of a minute.

    Args:
        ours: images that are trained on or mined from.
        theirs: images of an evaluation set.
        store: where hashes are kept.
        compute: workers that hash images.
        max_pixels: larger images are not hashed.

    Raises:
        FgrayError: an image cannot be read.
    """
    if not ours.table.num_rows or not theirs.table.num_rows:
        return []
    other = np.full(ours.table.num_rows, -1)
    reason = np.full(len(other), "", object)
    for name, matches in (("file", _same_files(ours, theirs)), ("coco", _same_ids(ours, theirs))):
        new = (matches >= 0) & (other < 0)
        other[new], reason[new] = matches[new], name
    left = np.flatnonzero(reason != "file")
    rest = ImageIndex(ours.root_uri, ours.table.take(pa.array(left)))
    ours_hashed, theirs_hashed = (hash_images([(index, index.keys.to_pylist())], store, compute, max_pixels) for index in (rest, theirs))
    for row, number in _same_pictures(rest, theirs, ours_hashed, theirs_hashed, max_pixels):
        other[left[row]], reason[left[row]] = number, "picture"
    rows = np.flatnonzero(other >= 0)
    keys = zip(ours.keys.take(pa.array(rows)).to_pylist(), theirs.keys.take(pa.array(other[rows])).to_pylist(), strict=True)
    return [Overlap(key, its, kind) for (key, its), kind in zip(keys, reason[rows].tolist(), strict=True)]


def near_pictures(ours: Hashes, theirs: Hashes, distance: int) -> npt.NDArray[np.int64]:
    """Return (row of ours, row of theirs) of all pairs of images within a hash distance, sorted: int64 [pairs, 2]."""
    known = np.flatnonzero(theirs.known).tolist()

    def block(start: int) -> npt.NDArray[np.int64]:
        bank = np.ascontiguousarray(ours.bank[start : start + _BLOCK].T)  # minima over rows are many times faster than over columns
        usable = ours.known[start : start + _BLOCK]
        rows = [np.flatnonzero(usable & _near(bank, theirs.bank[number], distance)) for number in known]
        columns = np.repeat(np.array(known, np.int64), [len(part) for part in rows])
        return np.stack([start + np.concatenate([_NO_ROWS, *rows]), columns], axis=1)

    with ThreadPoolExecutor() as pool:
        found = np.concatenate([np.zeros((0, 2), np.int64), *pool.map(block, range(0, len(ours.bank), _BLOCK))])
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _same_pictures(
    ours: ImageIndex, theirs: ImageIndex, our_hashes: Hashes, their_hashes: Hashes, max_pixels: int
) -> Iterator[tuple[int, int]]:
    """Yield (row of ours, row of theirs) for each of our images that shows one of theirs, the first of those."""
    thumbnails: dict[int, Image.Image] = {}
    last = -1
    for row, number in near_pictures(our_hashes, their_hashes, HASH_DISTANCE).tolist():
        if row == last:
            continue
        if number not in thumbnails:
            thumbnails[number] = _thumbnail(theirs, number, max_pixels)
        value = likeness(_thumbnail(ours, row, max_pixels), our_hashes.bank[row], thumbnails[number], their_hashes.bank[number])
        if value >= LIKENESS:
            last = row
            yield row, number


def _thumbnail(index: ImageIndex, row: int, max_pixels: int) -> Image.Image:
    (data,) = index.read(index.table.slice(row, 1))
    return thumbnail(decode_image(data, max_pixels))  # it was hashed, so it can be decoded


def _near(bank: npt.NDArray[np.uint64], one: npt.NDArray[np.uint64], distance: int) -> npt.NDArray[np.bool_]:
    """Return which images of a bank [B, n] are within `distance` of one image's [B], as `fgray.mining.image_hash.distances` has it."""
    near = np.zeros(bank.shape[1], bool)
    for frame in (0, 1):  # plain and mirrored
        for pairs in (bank ^ one[frame], bank[frame] ^ one[:, None]):
            near |= np.bitwise_count(pairs).min(axis=0) <= distance
    return near


def _same_files(ours: ImageIndex, theirs: ImageIndex) -> npt.NDArray[np.int64]:
    return _positions(ours.table["sha256"], theirs.table["sha256"])


def _same_ids(ours: ImageIndex, theirs: ImageIndex) -> npt.NDArray[np.int64]:
    return _positions(*(pa.array(list(_coco_ids(index)), pa.string()) for index in (ours, theirs)))


def _coco_ids(index: ImageIndex) -> Iterator[str | None]:
    for key in index.keys.to_pylist():
        found = _COCO.fullmatch(key.rpartition("/")[2])
        yield found and found.group(1)


def _positions(ours: pa.Array | pa.ChunkedArray, theirs: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    places: npt.NDArray[np.int64] = pc.fill_null(pc.index_in(ours, value_set=theirs, skip_nulls=True), -1).to_numpy().astype(np.int64)
    return places


def _images_of(config: BenchmarkConfig, root: str | None, cache: str) -> ImageIndex:
    """Return the images that a set asks about, as query or candidate."""
    if config.name == FILE:
        pairs = load_pairs(config, root, cache)
        keys, index = pairs.images, pairs.index
        if not index.table.num_rows:
            raise DataError("a file of pairs does not say where its images lie", where="disjoint_from", fix="give it images: FOLDER")
    else:
        loaded = open_benchmark(config, root, cache)
        keys, index = loaded.cases.references("image"), loaded.images
    return ImageIndex(index.root_uri, index.locate(keys))
