"""The object bank: photographic cut-outs and backgrounds that come with the package."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

BANK_FOLDER = Path(__file__).parent / "bank"


@dataclass(frozen=True)
class CutOut:
    """One object with a soft alpha edge, cropped to its outline.

    Attributes:
        file: file name in the bank; identifies the cut-out.
        category, plural: its noun, singular and plural.
        image_id: COCO image that it was cut from.
        size: width and height in px.
    """

    file: str
    category: str
    plural: str
    image_id: int
    size: tuple[int, int]

    @property
    def slenderness(self) -> float:
        """Short side divided by long side."""
        return min(self.size) / max(self.size)

    def extent(self, longest: int) -> tuple[int, int]:
        """Return width and height in px when the longer side is `longest` px."""
        width, height = self.size
        scale = longest / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True)
class Background:
    """One square background photograph.

    Attributes:
        file: file name in the bank.
        image_id: COCO image that it was cropped from.
        visible: COCO categories annotated inside the crop.
    """

    file: str
    image_id: int
    visible: frozenset[str]


@dataclass(frozen=True)
class ObjectBank:
    """All cut-outs and backgrounds, with what identifies their content.

    Attributes:
        cut_outs, backgrounds: in the order of ``bank.json``.
        digest: sha256 (hex) over ``bank.json`` and every image file.
    """

    folder: Path
    cut_outs: tuple[CutOut, ...]
    backgrounds: tuple[Background, ...]
    digest: str

    @property
    def categories(self) -> list[str]:
        """Distinct categories of the cut-outs, sorted."""
        return sorted({cut_out.category for cut_out in self.cut_outs})

    def of_category(self, category: str) -> list[CutOut]:
        """Return the cut-outs of one category."""
        return [cut_out for cut_out in self.cut_outs if cut_out.category == category]

    def image(self, item: CutOut | Background) -> Image.Image:
        """Return the picture: RGBA of a cut-out, RGB of a background."""
        return _open(self.folder / item.file, "RGBA" if isinstance(item, CutOut) else "RGB")

    def scaled(self, cut_out: CutOut, longest: int) -> Image.Image:
        """Return a cut-out resized so that its longer side is `longest` px (RGBA, alpha-weighted Lanczos)."""
        return _scaled(self.folder / cut_out.file, cut_out.extent(longest))


@functools.lru_cache(maxsize=256)
def _open(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert(mode)


@functools.lru_cache(maxsize=64)
def _scaled(path: Path, size: tuple[int, int]) -> Image.Image:
    return _open(path, "RGBA").convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


@functools.lru_cache(maxsize=1)
def load_bank() -> ObjectBank:
    """Read the bank that is part of the package."""
    text = (BANK_FOLDER / "bank.json").read_bytes()
    data = json.loads(text)
    cut_outs = tuple(
        CutOut(item["file"], item["category"], item["plural"], item["image_id"], (item["size"][0], item["size"][1]))
        for item in data["cut_outs"]
    )
    backgrounds = tuple(Background(item["file"], item["image_id"], frozenset(item["visible"])) for item in data["backgrounds"])
    digest = hashlib.sha256(text)
    for file in [one.file for one in cut_outs] + [one.file for one in backgrounds]:
        digest.update((BANK_FOLDER / file).read_bytes())
    return ObjectBank(BANK_FOLDER, cut_outs, backgrounds, digest.hexdigest())


def alpha_of(image: Image.Image) -> np.ndarray:
    """Return the alpha channel as float64 [height, width] in 0…1."""
    return np.asarray(image.getchannel("A"), dtype=np.float64) / 255
