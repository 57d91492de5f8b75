"""How drawn objects and their backgrounds look: the styles, background families and hues of each split.

Training has nothing of this in common with selection and test: a style, a background family and a hue belong to ``train`` or to ``test``.
Only integer and correctly rounded arithmetic decides about pixels.
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from fgray.synthesis.shapes import Part, Point

Split = Literal["train", "selection", "test"]
Look = Literal["train", "test"]
Colour = tuple[int, int, int]
SIDE = 144  # px of the sheet on which an object is drawn, before it is scaled down
HUES: Mapping[Look, Sequence[int]] = {"train": (0, 60, 120, 180, 240, 300), "test": (30, 90, 150, 210, 270, 330)}
SECTOR = 30  # degrees of hue from each of these on


def look(split: Split) -> Look:
    """Return what a split looks like: selection looks like the test, as what is chosen on it shall be good there."""
    return "train" if split == "train" else "test"


def colour(rng: np.random.Generator, split: Split, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """Return a colour with a hue of the split, and saturation and value (0…1) in the given ranges."""
    hue = (int(rng.choice(HUES[look(split)])) + rng.uniform(1, SECTOR - 1)) / 360
    red, green, blue = colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value))
    return round(red * 255), round(green * 255), round(blue * 255)


def shade(base: Colour, factor: float) -> Colour:
    """Return the colour darkened (factor < 1) or brought nearer to white (factor > 1)."""
    if factor <= 1:
        return tuple(round(channel * factor) for channel in base)  # type: ignore[return-value]
    return tuple(round(255 - (255 - channel) * (2 - factor)) for channel in base)  # type: ignore[return-value]


def mixed(weight: np.ndarray, zero: Colour, one: Colour) -> Image.Image:
    """Return an RGB picture that goes from one colour to another as `weight` ([height, width] in 0…1, or bool) goes from 0 to 1."""
    mask = Image.fromarray((weight * np.float32(255)).astype(np.uint8))
    return Image.composite(Image.new("RGB", mask.size, one), Image.new("RGB", mask.size, zero), mask)


@functools.lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray]:
    ys, xs = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    return xs, ys


class Sheet:
    """One object while it is drawn: `ink` is the RGB picture, `shape` the L mask of what has been painted.

    Args:
        parts: polygons in px of the sheet.
        colours: one for each tone.
        rng: for the details of the style.
    """

    def __init__(self, parts: Sequence[Part], colours: Sequence[Colour], rng: np.random.Generator) -> None:
        self.parts, self.colours, self.rng = parts, colours, rng
        self.ink = Image.new("RGB", (SIDE, SIDE))
        self.shape = Image.new("L", (SIDE, SIDE))

    def paint(self, paints: Sequence[Image.Image | Colour], edge: int = 0, dark: Colour = (0, 0, 0)) -> None:
        """Paint every part with its tone's picture or colour; `edge` px inside each outline become `dark`."""
        for part in self.parts:
            mask = _mask(part)
            self.ink.paste(paints[part.tone], (0, 0), mask)
            self.shape.paste(255, (0, 0), mask)
            if edge:
                self.ink.paste(dark, (0, 0), _rim(mask, edge))

    def picture(self) -> Image.Image:
        """Return the drawing as RGBA, cropped to its ink."""
        image = self.ink.copy()
        image.putalpha(self.shape)
        return image.crop(self.shape.getbbox())


def _mask(part: Part) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(mask)
    for value, polygons in ((255, part.fills), (0, part.cuts)):
        for polygon in polygons:
            draw.polygon(polygon, fill=value)
    return mask


def _rim(mask: Image.Image, width: int) -> Image.Image:
    inside = np.asarray(mask) > 0
    inner = inside.copy()
    for step in (width, -width):
        inner &= np.roll(inside, step, axis=0) & np.roll(inside, step, axis=1)
    return Image.fromarray((inside & ~inner).astype(np.uint8) * 255)


def flat(sheet: Sheet) -> None:
    """Plain colours."""
    sheet.paint(sheet.colours)


def outlined(sheet: Sheet) -> None:
    """Plain colours within dark outlines."""
    sheet.paint(sheet.colours, edge=int(sheet.rng.integers(3, 6)), dark=shade(sheet.colours[0], 0.25))


def gradient(sheet: Sheet) -> None:
    """Each tone darkens from top to bottom."""
    weight = _grid()[1] / SIDE
    sheet.paint([mixed(weight, shade(one, 1.2), shade(one, 0.55)) for one in sheet.colours])


def hatched(sheet: Sheet) -> None:
    """Diagonal dark lines on plain colours."""
    xs, ys = _grid()
    period, slope = int(sheet.rng.integers(8, 14)), float(sheet.rng.choice([-1.0, 1.0]))
    weight = (xs + slope * ys) % period < period * 0.35
    sheet.paint([mixed(weight, shade(one, 1.2), shade(one, 0.55)) for one in sheet.colours])


def woven(sheet: Sheet) -> None:
    """Small checks of two shades."""
    xs, ys = _grid()
    cell = int(sheet.rng.integers(6, 12))
    weight = (xs // cell + ys // cell) % 2
    sheet.paint([mixed(weight, shade(one, 1.25), shade(one, 0.75)) for one in sheet.colours])


def rimmed(sheet: Sheet) -> None:
    """Dark colours within pale outlines."""
    sheet.paint([shade(one, 0.7) for one in sheet.colours], edge=int(sheet.rng.integers(3, 6)), dark=shade(sheet.colours[0], 1.7))


def banded(sheet: Sheet) -> None:
    """Level bands of two shades."""
    band = int(sheet.rng.integers(7, 15))
    weight = _grid()[1] // band % 2
    sheet.paint([mixed(weight, shade(one, 1.3), shade(one, 0.65)) for one in sheet.colours])


def ringed(sheet: Sheet) -> None:
    """Rings of two shades round a point."""
    xs, ys = _grid()
    centre, period = sheet.rng.uniform(0.2, 0.8, size=2) * SIDE, int(sheet.rng.integers(14, 24))
    weight = np.sqrt((xs - np.float32(centre[0])) ** 2 + (ys - np.float32(centre[1])) ** 2) % period < period / 2
    sheet.paint([mixed(weight, shade(one, 1.3), shade(one, 0.65)) for one in sheet.colours])


def speckled(sheet: Sheet) -> None:
    """Small blots of a darker shade at random."""
    cells = int(sheet.rng.integers(16, 30))
    noise = Image.fromarray((sheet.rng.random((cells, cells)) < 0.3).astype(np.uint8) * 255)
    weight = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 0
    sheet.paint([mixed(weight, shade(one, 1.15), shade(one, 0.6)) for one in sheet.colours])


def shaded(sheet: Sheet) -> None:
    """A highlight at the upper left that falls off round it."""
    xs, ys = _grid()
    centre = sheet.rng.uniform(0.2, 0.4, size=2) * SIDE
    weight = np.minimum(((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2) / (0.6 * SIDE) ** 2, 1)
    sheet.paint([mixed(weight, shade(one, 1.45), shade(one, 0.65)) for one in sheet.colours])


def dotted(sheet: Sheet) -> None:
    """Light dots on plain colours."""
    xs, ys = _grid()
    period = int(sheet.rng.integers(10, 17))
    half = period / 2
    weight = ((xs % period) - half) ** 2 + ((ys % period) - half) ** 2 < (0.3 * period) ** 2
    sheet.paint([mixed(weight, shade(one, 0.85), shade(one, 1.6)) for one in sheet.colours])


def halved(sheet: Sheet) -> None:
    """The left half light, the right half dark, as if folded."""
    fold = float(sheet.rng.uniform(0.42, 0.58)) * SIDE
    weight = _grid()[0] > fold
    sheet.paint([mixed(weight, shade(one, 1.25), shade(one, 0.65)) for one in sheet.colours])


def sketched(sheet: Sheet) -> None:
    """Pale colours and two shaky dark lines round every polygon."""
    sheet.paint([shade(one, 1.3) for one in sheet.colours])
    lines = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(lines)
    for part in sheet.parts:
        for polygon in (*part.fills, *part.cuts):
            for _ in range(2):
                shake = sheet.rng.integers(-2, 3, size=(len(polygon), 2))
                line: list[Point] = [(x + int(dx), y + int(dy)) for (x, y), (dx, dy) in zip(polygon, shake, strict=True)]
                draw.line([*line, line[0]], fill=255, width=2)
    near = np.asarray(sheet.shape) > 0  # a cut reaches beyond its part, its line must not
    for axis in (0, 1):
        near = near | np.roll(near, 3, axis) | np.roll(near, -3, axis)
    lines = Image.fromarray(np.asarray(lines) * near)
    sheet.ink.paste(shade(sheet.colours[0], 0.45), (0, 0), lines)
    sheet.shape.paste(255, (0, 0), lines)


def pixelated(sheet: Sheet) -> None:
    """Plain colours on a coarse grid."""
    sheet.paint(sheet.colours)
    cells = int(sheet.rng.integers(18, 25))
    image = sheet.ink.copy()
    image.putalpha(sheet.shape)
    coarse = image.convert("RGBa").resize((cells, cells), Image.Resampling.BOX).convert("RGBA")
    whole = coarse.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    sheet.ink = whole.convert("RGB")
    sheet.shape = whole.getchannel("A").point(lambda value: 255 * (value > 100))


STYLES: Mapping[Look, Sequence[Callable[[Sheet], None]]] = {
    "train": (flat, outlined, gradient, hatched, woven, rimmed, banded, ringed, speckled),
    "test": (shaded, dotted, halved, sketched, pixelated),
}
