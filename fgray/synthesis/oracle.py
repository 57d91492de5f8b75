"""Pixel oracle: answers composed cases from pixels alone, to show that every case carries its attribute.

It sees what a model sees, the images and the texts, and besides the empty canvas of the case and the pictures of the bank. It reads no
label and no layout: objects are the connected regions in which an image differs from its empty canvas, and one object is told from
another by comparing its colours and outline with the bank's cut-outs of the named categories.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from fgray.synthesis.bank import CutOut, ObjectBank, alpha_of
from fgray.synthesis.layout import CANVAS, CELL_NAMES, NUMBERS

Read = Callable[[str], bytes]
DIFFERENCE = 14.0  # grey levels; above the noise of JPEG, below the contrast of an object
SIDE = CANVAS // 2  # px of the pictures as the oracle sees them
MIN_AREA, DEBRIS_AREA = 12, 60  # pixels of such a picture: never an object; no object beside one ten times as large
PATCH = 24  # blobs and cut-outs are compared as PATCH x PATCH pictures


@dataclass(frozen=True, eq=False)
class Blob:
    """One connected region that differs from the empty canvas; lengths are shares of the canvas side.

    Attributes:
        x, y: centre of the bounding box.
        width, height: size of the bounding box.
        colours: float [PATCH, PATCH, 3] in 0…1, the box stretched to a square.
        outline: float [PATCH, PATCH] in 0…1, the region's share of each cell.
    """

    x: float
    y: float
    width: float
    height: float
    colours: np.ndarray
    outline: np.ndarray

    @property
    def longest(self) -> float:
        """Longer side of the bounding box."""
        return max(self.width, self.height)


def observed(image: Image.Image) -> np.ndarray:
    """Return the pixels, float32 [224, 224, 3] in 0…255.

    A larger canvas is averaged, which takes most of JPEG's noise away; the pixels of a smaller one are repeated.
    """
    whole = image.convert("RGB")
    if whole.width < SIDE:
        return np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.NEAREST), dtype=np.float32)
    return np.asarray(whole.reduce(whole.width // SIDE), dtype=np.float32)


def find_blobs(pixels: np.ndarray, empty: np.ndarray) -> list[Blob]:
    """Return the regions in which an image differs from its empty canvas (both as `observed` gives them), largest first.

    Small regions beside a much larger one are debris at its edges and left out.
    """
    difference = np.abs(pixels - empty) > DIFFERENCE
    changed = difference[..., 0] | difference[..., 1] | difference[..., 2]
    if not changed.any():
        return []
    (region,) = ndimage.find_objects(changed.astype(np.uint8))
    top, left = region[0].start, region[1].start
    pixels, side = pixels[region], pixels.shape[0]
    closed = ndimage.binary_closing(np.pad(changed[region], 4), ndimage.generate_binary_structure(2, 1), iterations=2)[4:-4, 4:-4]
    labels, _ = ndimage.label(ndimage.binary_fill_holes(closed), structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    least = min(0.1 * areas.max(initial=0), DEBRIS_AREA)
    blobs = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if areas[label] < max(least, MIN_AREA):
            continue
        rows, columns = box
        inside = labels[box] == label
        blobs.append(
            Blob(
                x=(left + (columns.start + columns.stop) / 2) / side,
                y=(top + (rows.start + rows.stop) / 2) / side,
                width=(columns.stop - columns.start) / side,
                height=(rows.stop - rows.start) / side,
                colours=_square(pixels[box]) / 255,
                outline=_square(inside.astype(np.float32)),
            )
        )
    return sorted(blobs, key=lambda blob: -blob.width * blob.height)


def _square(array: np.ndarray) -> np.ndarray:
    """Scale a float [height, width] or [height, width, 3] array to PATCH x PATCH."""
    planes = array[..., None] if array.ndim == 2 else array
    scaled = [np.asarray(Image.fromarray(planes[..., i]).resize((PATCH, PATCH), Image.Resampling.BOX)) for i in range(planes.shape[2])]
    return scaled[0] if array.ndim == 2 else np.dstack(scaled)


class Oracle:
    """Scores image-text pairs of composed cases; larger is truer.

    Args:
        bank: the pictures of the objects.
    """

    def __init__(self, bank: ObjectBank) -> None:
        self._looks = {category: _looks(bank, bank.of_category(category)) for category in bank.categories}
        self.unlike = lru_cache(maxsize=4096)(self._unlike)  # a blob stands in several cases

    def _unlike(self, blob: Blob, category: str) -> float:
        """Return how much a blob differs from the most similar cut-out of a category, 0 = equal."""
        return float(_unlike(blob, self._looks[category]).min())

    def score(self, blobs: Sequence[Blob], text: str) -> float:
        """Return how well the objects of an image fit a text of any of the six subsets.

        Raises:
            ValueError: the text is none of the composer's wordings.
        """
        for pattern, fit in _WORDINGS:
            match = pattern.fullmatch(text)
            if match:
                return fit(self, blobs, *match.groups())
        raise ValueError(f"not a wording of the composer: {text}")

    def _size(self, blobs: Sequence[Blob], category: str, word: str) -> float:
        share = {"large": 0.8, "medium-sized": 0.46, "small": 0.22}[word]
        return -abs(np.log(blobs[0].longest / share)) if blobs else -np.inf

    def _cell(self, blobs: Sequence[Blob], category: str, name: str) -> float:
        row, column = divmod(CELL_NAMES.index(name), 3)
        if not blobs:
            return -np.inf
        return -float(np.hypot(blobs[0].x - (0.5 + (column - 1) * 0.29), blobs[0].y - (0.5 + (row - 1) * 0.29)))

    def _number(self, blobs: Sequence[Blob], number: str, noun: str) -> float:
        return -abs(len(blobs) - (NUMBERS.index(number) + 1))

    def _presence(self, blobs: Sequence[Blob], article: str, category: str) -> float:
        nearest = [min(self._looks, key=lambda name: self.unlike(blob, name)) for blob in blobs]
        return float((category in nearest) != (article == "no"))

    def _pair(self, blobs: Sequence[Blob], first: str, second: str) -> tuple[Blob, Blob] | None:
        """Tell the two objects apart: the assignment that looks more alike."""
        if len(blobs) < 2:
            return None
        one, two = blobs[:2]
        straight = self.unlike(one, first) + self.unlike(two, second)
        crossed = self.unlike(one, second) + self.unlike(two, first)
        return (one, two) if straight <= crossed else (two, one)

    def _ratio(self, blobs: Sequence[Blob], first: str, word: str, second: str) -> float:
        pair = self._pair(blobs, first, second)
        ratio = {"smaller than": 0.5, "equal-size with": 1.0, "bigger than": 2.0}[word]
        return -abs(np.log(pair[0].longest / pair[1].longest / ratio)) if pair else -np.inf

    def _side(self, blobs: Sequence[Blob], first: str, word: str, second: str) -> float:
        pair = self._pair(blobs, first, second)
        dx, dy = {"to the left of": (-1, 0), "to the right of": (1, 0), "on top of": (0, -1), "below": (0, 1)}[word]
        return dx * (pair[0].x - pair[1].x) + dy * (pair[0].y - pair[1].y) if pair else -np.inf


_WORDINGS: list[tuple[re.Pattern[str], Callable[..., float]]] = [
    (re.compile(r"the (.+) is (large|medium-sized|small) in the image"), Oracle._size),
    (re.compile(r"the (.+) is (smaller than|equal-size with|bigger than) the (.+)"), Oracle._ratio),
    (re.compile(rf"the (.+) is in the ({'|'.join(CELL_NAMES)}) of the image"), Oracle._cell),
    (re.compile(r"the (.+) is (to the left of|to the right of|on top of|below) the (.+)"), Oracle._side),
    (re.compile(r"there is (an?|no) (.+) in the image"), Oracle._presence),
    (re.compile(rf"a photo of ({'|'.join(NUMBERS)}) (.+)"), Oracle._number),
]


@dataclass(frozen=True)
class _Looks:
    """Cut-outs as they would appear as blobs, one after the other along the first axis."""

    colours: np.ndarray
    outline: np.ndarray
    shape: np.ndarray  # log of width / height


def _looks(bank: ObjectBank, cut_outs: Sequence[CutOut]) -> _Looks:
    pictures = [bank.scaled(cut_out, CANVAS // 4) for cut_out in cut_outs]
    colours = [_square(np.asarray(picture.convert("RGB"), dtype=np.float32)) / 255 for picture in pictures]
    outlines = [_square(alpha_of(picture).astype(np.float32)) for picture in pictures]
    return _Looks(np.stack(colours), np.stack(outlines), np.log([picture.width / picture.height for picture in pictures]))


def _unlike(blob: Blob, looks: _Looks) -> np.ndarray:
    weight = np.minimum(blob.outline, looks.outline)
    colour = (np.abs(blob.colours - looks.colours).mean(axis=3) * weight).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1e-6)
    outline = np.abs(blob.outline - looks.outline).mean(axis=(1, 2))
    difference: np.ndarray = colour + outline + 0.5 * np.abs(np.log(blob.width / blob.height) - looks.shape)
    return difference


def answer(read: Read, bank: ObjectBank, subsets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Let the oracle answer a composed folder.

    Args:
        read: returns the content of a file of the folder.
        bank: the pictures of the objects.
        subsets: which subsets to answer.

    Returns:
        ``spec_style/SUBSET/oracle_i2t_accuracy`` (and ``t2i``) -> {"value", "count", "correct", "chance", "note"}. The first of equal
        scores is the answer, as in the benchmark.
    """
    oracle = Oracle(bank)
    entries: dict[str, dict[str, Any]] = {}
    for subset in subsets:
        entries.update(_answer_subset(oracle, read, subset))
    return entries


def _answer_subset(oracle: Oracle, read: Read, subset: str) -> dict[str, dict[str, Any]]:
    @lru_cache(maxsize=32)
    def pixels(path: str) -> np.ndarray:
        return observed(Image.open(io.BytesIO(read(path))))

    @lru_cache(maxsize=1024)
    def blobs(name: str) -> list[Blob]:
        case = name.rpartition("/")[2].partition("-")[0]
        return find_blobs(pixels(f"{subset}/{name}"), pixels(f"backgrounds/{subset}/{case}.jpg"))

    entries = {}
    for task, file in (("i2t", "image2text"), ("t2i", "text2image")):
        rows = json.loads(read(f"{subset}/{file}.json"))
        correct = 0
        for row in rows:
            pairs = [(row["query"], key) if task == "i2t" else (key, row["query"]) for key in row["keys"]]
            correct += int(np.argmax([oracle.score(blobs(image), text) for image, text in pairs])) == row["label"]
        entries[f"spec_style/{subset}/oracle_{task}_accuracy"] = {
            "value": correct / len(rows),
            "count": len(rows),
            "correct": correct,
            "chance": 1 / len(rows[0]["keys"]),
            "note": "answered from pixel differences to the empty background, without labels",
        }
    return entries
