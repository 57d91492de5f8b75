"""Object banks: cut-outs and backgrounds to compose from. The photographic bank comes with the package."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
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
        size: width and height in px.
    """

    file: str
    category: str
    plural: str
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
    """One square background.

    Attributes:
        file: file name in the bank.
        visible: categories that it shows.
    """

    file: str
    visible: frozenset[str]


class ObjectBank(ABC):
    """All cut-outs and backgrounds, with what identifies their content.

    Attributes:
        cut_outs, backgrounds: in a fixed order.
        digest: sha256 (hex) of everything that the pictures depend on.
        shrink: layouts are made for a canvas of 448 px; composed pictures are so many times smaller.
        jpeg_quality: of composed pictures.
        legible: share of an object's pixels that must stand out from the background, if any background allows it.
    """

    cut_outs: tuple[CutOut, ...]
    backgrounds: tuple[Background, ...]
    digest: str
    shrink: int = 1
    jpeg_quality: int = 92
    legible: float = 0.85

    @property
    def categories(self) -> list[str]:
        """Distinct categories of the cut-outs, sorted."""
        return sorted({cut_out.category for cut_out in self.cut_outs})

    def of_category(self, category: str) -> list[CutOut]:
        """Return the cut-outs of one category."""
        return [cut_out for cut_out in self.cut_outs if cut_out.category == category]

    @abstractmethod
    def image(self, item: CutOut | Background) -> Image.Image:
        """Return the picture: RGBA of a cut-out, RGB of a background."""

    @abstractmethod
    def scaled(self, cut_out: CutOut, longest: int) -> Image.Image:
        """Return a cut-out resized so that its longer side is `longest` px (RGBA, alpha-weighted Lanczos)."""

    def may_meet(self, a: CutOut, b: CutOut) -> bool:
        """Whether two cut-outs may stand in one picture."""
        return a.category != b.category

    def ranges(self, rng: np.random.Generator) -> np.random.Generator:
        """Return the generator from which layouts draw sizes and places."""
        return rng


class PhotographBank(ObjectBank):
    """The bank in a folder with ``bank.json``.

    Args:
        folder: where its files lie.
        cut_outs, backgrounds: what ``bank.json`` lists, in its order.
        digest: sha256 (hex) over ``bank.json`` and every image file.
    """

    def __init__(self, folder: Path, cut_outs: tuple[CutOut, ...], backgrounds: tuple[Background, ...], digest: str) -> None:
        self.folder, self.cut_outs, self.backgrounds, self.digest = folder, cut_outs, backgrounds, digest

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
def load_bank() -> PhotographBank:
    """Read the bank that is part of the package."""
    text = (BANK_FOLDER / "bank.json").read_bytes()
    data = json.loads(text)
    cut_outs = tuple(
        CutOut(item["file"], item["category"], item["plural"], (item["size"][0], item["size"][1])) for item in data["cut_outs"]
    )
    backgrounds = tuple(Background(item["file"], frozenset(item["visible"])) for item in data["backgrounds"])
    digest = hashlib.sha256(text)
    for file in [one.file for one in cut_outs] + [one.file for one in backgrounds]:
        digest.update((BANK_FOLDER / file).read_bytes())
    return PhotographBank(BANK_FOLDER, cut_outs, backgrounds, digest.hexdigest())


def alpha_of(image: Image.Image) -> np.ndarray:
    """Return the alpha channel as float64 [height, width] in 0…1."""
    return np.asarray(image.getchannel("A"), dtype=np.float64) / 255
