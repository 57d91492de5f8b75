"""Layouts: which cut-outs stand where, and how large, so that the K images of a case differ in one attribute only.

Units are px of a square canvas of `CANVAS` px. Everything stays inside a margin of 1/16 of the canvas on each side, so that a model that
resizes the short side to 8/7 of its input and crops the centre still sees it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fgray.synthesis.bank import CutOut

CANVAS = 448
MARGIN = CANVAS // 16
AREA = CANVAS - 2 * MARGIN  # side of the square that every model sees
CELL = AREA / 3  # the 3 x 3 grid covers that square
GAP = 12  # least distance between two objects
LEAST = 48  # shortest side of a counted object: 24 px once the canvas is scaled to 224

CELL_NAMES = (
    "top-left corner",
    "top",
    "top-right corner",
    "left",
    "center",
    "right",
    "bottom-left corner",
    "bottom",
    "bottom-right corner",
)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Paste:
    """One cut-out on the canvas: centre in px, and the length of its longer side in px."""

    cut_out: CutOut
    x: float
    y: float
    longest: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width, height in px."""
        width, height = self.cut_out.extent(self.longest)
        return round(self.x - width / 2), round(self.y - height / 2), width, height


@dataclass(frozen=True)
class Case:
    """K texts and K scenes; text i is true of scene i and of no other."""

    texts: tuple[str, ...]
    scenes: tuple[tuple[Paste, ...], ...]

    def shrunk(self, factor: int) -> Case:
        """Return the case for a canvas that is `factor` times smaller; pastes that scenes share stay shared."""
        smaller = {
            id(paste): Paste(paste.cut_out, paste.x / factor, paste.y / factor, round(paste.longest / factor))
            for scene in self.scenes
            for paste in scene
        }
        return Case(self.texts, tuple(tuple(smaller[id(paste)] for paste in scene) for scene in self.scenes))


class EveryOtherQuarter(np.random.Generator):
    """Draws from the first and third or from the second and fourth quarter of each range, so that two of them never draw the same.

    Args:
        rng: the generator whose stream is used.
        first: 0 or 1, the first of the two quarters.
    """

    def __init__(self, rng: np.random.Generator, first: int) -> None:
        super().__init__(rng.bit_generator)
        self._whole, self._first = rng, first

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Return floats from the two quarters of [low, high)."""
        half, within = np.divmod(2 * self.random(size), 1)
        return low + (high - low) * (2 * half + self._first + within) / 4

    def integers(self, low: Any, high: Any, size: Any = None) -> Any:  # type: ignore[override]
        """Return integers from the two quarters of [low, high), to whose numbers of values they are cut."""
        values = np.arange(low, high)
        return self._whole.choice(values[4 * (values - low) // (high - low) % 2 == self._first], size=size)

    def choice(self, *arguments: Any, **options: Any) -> Any:
        """Choose among all: alternatives are no range."""
        return self._whole.choice(*arguments, **options)


def _jitter(rng: np.random.Generator, reach: float) -> tuple[float, float]:
    dx, dy = rng.uniform(-reach, reach, size=2)
    return float(dx), float(dy)


def _cell_centre(cell: int) -> tuple[float, float]:
    row, column = divmod(cell, 3)
    return MARGIN + (column + 0.5) * CELL, MARGIN + (row + 0.5) * CELL


def absolute_size(rng: np.random.Generator, a: CutOut, b: CutOut) -> Case:
    """One object, large, medium-sized or small: longer side about 80, 46 and 22 % of the canvas, same centre."""
    large, medium, small = (round(CANVAS * rng.uniform(low, high)) for low, high in ((0.78, 0.83), (0.43, 0.49), (0.2, 0.24)))
    dx, dy = _jitter(rng, (AREA - large) / 2)
    scenes = tuple((Paste(a, CANVAS / 2 + dx, CANVAS / 2 + dy, size),) for size in (large, medium, small))
    return Case(tuple(f"the {a.category} is {word} in the image" for word in ("large", "medium-sized", "small")), scenes)


def relative_size(rng: np.random.Generator, a: CutOut, b: CutOut) -> Case:
    """A's longer side is half of, equal to or twice B's; B and both places stay."""
    reference = int(rng.integers(106, 117))
    side = float(rng.choice([-1.0, 1.0]))
    slack = AREA - 3 * reference - 2 * GAP
    shift = rng.uniform(0, slack)
    y_a = CANVAS / 2 + rng.uniform(-1, 1) * (AREA / 2 - reference)
    y_b = y_a + rng.uniform(-20, 20)
    x_a = CANVAS / 2 + side * (AREA / 2 - reference - shift)  # A has room for twice the reference
    x_b = x_a - side * (reference * 1.5 + 2 * GAP)
    b_paste = Paste(b, x_b, y_b, reference)
    scenes = tuple((Paste(a, x_a, y_a, round(reference * ratio)), b_paste) for ratio in (0.5, 1, 2))
    words = ("smaller than", "equal-size with", "bigger than")
    return Case(tuple(f"the {a.category} is {word} the {b.category}" for word in words), scenes)


def absolute_spatial(rng: np.random.Generator, a: CutOut, b: CutOut) -> Case:
    """One object in each cell of a 3 x 3 grid."""
    size = int(rng.integers(100, 115))
    dx, dy = _jitter(rng, (CELL - size) / 2)
    centres = [_cell_centre(cell) for cell in range(9)]
    scenes = tuple((Paste(a, x + dx, y + dy, size),) for x, y in centres)
    return Case(tuple(f"the {a.category} is in the {name} of the image" for name in CELL_NAMES), scenes)


def relative_spatial(rng: np.random.Generator, a: CutOut, b: CutOut) -> Case:
    """B in the middle, A beside, above or below it."""
    size_a, size_b = (int(size) for size in rng.integers(100, 117, size=2))
    dx, dy = _jitter(rng, 6)
    x, y = CANVAS / 2 + dx, CANVAS / 2 + dy
    distance = (size_a + size_b) / 2 + GAP + 2
    middle = Paste(b, x, y, size_b)
    places = {
        "to the left of": (x - distance, y),
        "to the right of": (x + distance, y),
        "on top of": (x, y - distance),
        "below": (x, y + distance),
    }
    scenes = tuple((Paste(a, *place, size_a), middle) for place in places.values())
    return Case(tuple(f"the {a.category} is {word} the {b.category}" for word in places), scenes)


def existence(rng: np.random.Generator, a: CutOut, b: CutOut) -> Case:
    """A is there or not; B, the distractor, is there in both images."""
    size_a, size_b = (int(size) for size in rng.integers(150, 179, size=2))
    side = float(rng.choice([-1.0, 1.0]))
    y_a, y_b = CANVAS / 2 + rng.uniform(-1, 1, size=2) * (AREA - 178) / 2
    other = Paste(b, CANVAS / 2 - side * AREA / 4, float(y_b), size_b)
    scenes = ((Paste(a, CANVAS / 2 + side * AREA / 4, float(y_a), size_a), other), (other,))
    article = "an" if a.category[0] in "aeiou" else "a"
    return Case((f"there is {article} {a.category} in the image", f"there is no {a.category} in the image"), scenes)


def count(rng: np.random.Generator, a: CutOut, b: CutOut) -> Case:
    """One to nine equal objects on cells of the grid in random order; n + 1 objects stand where n stood, and one more."""
    least = max(104, int(np.ceil((LEAST + 1) / a.slenderness)))
    size = int(rng.integers(least, int(CELL - GAP - 1)))
    cells = rng.permutation(9)
    places = []
    for cell in cells:
        x, y = _cell_centre(int(cell))
        dx, dy = _jitter(rng, max(0.0, (CELL - GAP - size) / 2))
        places.append(Paste(a, x + dx, y + dy, size))
    nouns = [a.category] + [a.plural] * 8
    return Case(
        tuple(f"a photo of {number} {noun}" for number, noun in zip(NUMBERS, nouns, strict=True)),
        tuple(tuple(places[:n]) for n in range(1, 10)),
    )


def countable(cut_out: CutOut) -> bool:
    """Whether a cut-out in one cell has a short side of at least `LEAST` px."""
    return (LEAST + 1) / cut_out.slenderness < CELL - GAP - 2


LAYOUTS: Mapping[str, Callable[[np.random.Generator, CutOut, CutOut], Case]] = {
    "absolute_size": absolute_size,
    "relative_size": relative_size,
    "absolute_spatial": absolute_spatial,
    "relative_spatial": relative_spatial,
    "existence": existence,
    "count": count,
}
TWO_OBJECTS = frozenset({"relative_size", "relative_spatial", "existence"})
