"""Object banks drawn by code: named objects in several styles, in splits that share the names and nothing else with training.

Disjoint between ``train`` and ``test``, by construction:

* instances: every shape is drawn from a seed of its split;
* drawing styles, background families and hues (`fgray.synthesis.styles`, `fgray.synthesis.backdrops`);
* which two categories stand in one picture: each category is seen beside one half of the others in training, beside the other half in test;
* layouts: every range of sizes and places is cut into quarters, of which ``train`` takes the first and third, ``test`` the others.

``selection`` is what a training may be tuned on: other instances and backgrounds than the test, which it is otherwise like.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from fgray.synthesis.backdrops import FAMILIES, backdrop
from fgray.synthesis.bank import Background, CutOut, ObjectBank
from fgray.synthesis.layout import EveryOtherQuarter
from fgray.synthesis.shapes import SHAPES, Part, Point, Polygon
from fgray.synthesis.styles import SIDE, STYLES, Sheet, Split, colour, look

DISJOINT = "train and test share names, not instances, styles, backgrounds, hues, pairs of categories or layouts"
DRAWN_LICENCE = "drawn by fgray's own code, no outside material; Apache-2.0 as the package"
DRAWN_VERSION = 3  # raise it with every change that alters a pixel of an object or a background
LONGEST = 96  # px of an object's longer side; the largest paste is smaller
MARGIN = 7  # px round the polygons on the sheet, for shaky lines
INSTANCES: Mapping[Split, int] = {"train": 126, "selection": 40, "test": 40}  # of each category
BACKDROPS: Mapping[Split, int] = {"train": 360, "selection": 100, "test": 100}
_SEEDS: Mapping[Split, int] = {"train": 1_000_003, "selection": 3_000_003, "test": 2_000_003}
_TRAIN_STEPS = frozenset({1, 4, 5, 8, 9})  # distances round the circle of categories that training pairs; test pairs the others


class DrawnBank(ObjectBank):
    """One split's objects and backgrounds; see `drawn_bank`.

    Args:
        split: "train", "selection" or "test".
    """

    shrink = 4
    jpeg_quality = 97  # a small canvas has small gaps between objects, which noise must not bridge
    legible = 0.97

    def __init__(self, split: Split) -> None:
        self.split = split
        content = [DRAWN_VERSION, split, list(SHAPES), INSTANCES[split], BACKDROPS[split]]
        self.digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @functools.cached_property
    def cut_outs(self) -> tuple[CutOut, ...]:  # type: ignore[override]
        """All instances, category by category; drawn once to learn their sizes."""
        found = []
        for category in SHAPES:
            for number in range(INSTANCES[self.split]):
                name = f"{self.split}/{category}-{number:02d}-{_style(self.split, number).__name__}"
                found.append(CutOut(name, category, category + "s", _object(self.split, category, number).size))
        return tuple(found)

    @functools.cached_property
    def backgrounds(self) -> tuple[Background, ...]:  # type: ignore[override]
        """All backgrounds, the families in turn."""
        families = FAMILIES[look(self.split)]
        names = [f"{self.split}/{families[number % len(families)].__name__}-{number:03d}" for number in range(BACKDROPS[self.split])]
        return tuple(Background(name, frozenset()) for name in names)

    def of_category(self, category: str) -> list[CutOut]:
        """Return the cut-outs of one category."""
        first, count = list(SHAPES).index(category) * INSTANCES[self.split], INSTANCES[self.split]
        return list(self.cut_outs[first : first + count])

    @property
    def categories(self) -> list[str]:
        """The categories, sorted; nothing is drawn for it."""
        return sorted(SHAPES)

    def image(self, item: CutOut | Background) -> Image.Image:
        """Return the picture: RGBA of an object, RGB of a background."""
        if isinstance(item, Background):
            return _backdrop(self.split, int(item.file.rpartition("-")[2]))
        return _object(self.split, item.category, int(item.file.split("-")[1]))

    def scaled(self, cut_out: CutOut, longest: int) -> Image.Image:
        """Return an object resized so that its longer side is `longest` px (RGBA, alpha-weighted Lanczos)."""
        return _scaled(self.split, cut_out.category, int(cut_out.file.split("-")[1]), cut_out.extent(longest))

    def may_meet(self, a: CutOut, b: CutOut) -> bool:
        """Whether the two categories stand in one picture in this split."""
        names = self.categories
        step = abs(names.index(a.category) - names.index(b.category))
        near = min(step, len(names) - step)
        return near > 0 and (near in _TRAIN_STEPS) == (self.split == "train")

    def ranges(self, rng: np.random.Generator) -> np.random.Generator:
        """Return the generator for layouts: it draws from this split's quarters of every range."""
        return EveryOtherQuarter(rng, first=0 if self.split == "train" else 1)


@functools.lru_cache(maxsize=3)
def drawn_bank(split: Split) -> DrawnBank:
    """Return the bank of a split."""
    return DrawnBank(split)


def _style(split: Split, number: int) -> Callable[[Sheet], None]:
    styles = STYLES[look(split)]
    return styles[number % len(styles)]


@functools.lru_cache(maxsize=2560)  # both passes over a bank, sizes and looks, find every drawing
def _object(split: Split, category: str, number: int) -> Image.Image:
    """Draw one instance: RGBA, longer side `LONGEST` px."""
    rng = np.random.default_rng([_SEEDS[split], sorted(SHAPES).index(category), number])
    parts = _placed(SHAPES[category](rng), rng)
    tones = [colour(rng, split, (0.6, 0.95), (0.55, 0.95)) for _ in range(2)]
    detail = colour(rng, split, (0.4, 0.6), (0.15, 0.3)) if rng.random() < 0.6 else colour(rng, split, (0.03, 0.12), (0.95, 1.0))
    sheet = Sheet(parts, [*tones, detail], rng)
    _style(split, number)(sheet)
    return _resized(sheet.picture(), LONGEST)


def _placed(parts: Sequence[Part], rng: np.random.Generator) -> list[Part]:
    """Mirror, stretch and turn a shape a little, and fit it into the sheet; whole px, so that rounding cannot differ."""
    mirror, stretch, lean = float(rng.choice([-1.0, 1.0])), rng.uniform(0.92, 1.09), rng.uniform(-0.16, 0.16)

    def moved(point: Point) -> Point:
        x, y = mirror * (point[0] - 0.5) * stretch, point[1] - 0.5
        return x - lean * y, y + lean * x  # a turn by atan(lean), a little enlarged

    turned = [Part(part.tone, _each(moved, part.fills), _each(moved, part.cuts)) for part in parts]
    points = np.array([point for part in turned for polygon in part.fills for point in polygon])
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    factor = (SIDE - 2 * MARGIN) / extent.max()
    start = (SIDE - extent * factor) / 2 - low * factor

    def fitted(point: Point) -> Point:
        return round(point[0] * factor + start[0]), round(point[1] * factor + start[1])

    return [Part(part.tone, _each(fitted, part.fills), _each(fitted, part.cuts)) for part in turned]


def _each(change: Callable[[Point], Point], polygons: Sequence[Polygon]) -> list[Polygon]:
    return [[change(point) for point in polygon] for polygon in polygons]


def _resized(image: Image.Image, longest: int) -> Image.Image:
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


@functools.lru_cache(maxsize=64)
def _scaled(split: Split, category: str, number: int, size: tuple[int, int]) -> Image.Image:
    return _object(split, category, number).convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


@functools.lru_cache(maxsize=512)
def _backdrop(split: Split, number: int) -> Image.Image:
    families = FAMILIES[look(split)]
    return backdrop(np.random.default_rng([_SEEDS[split], len(SHAPES), number]), split, families[number % len(families)])
