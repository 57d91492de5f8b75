"""Backgrounds of drawn pictures: calm patterns of pale or of dark colours in uneven light; each family belongs to one split.

The light differs from background to background, so that pictures with objects in the same place are not the same picture to a
perceptual hash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from fgray.synthesis.styles import Colour, Look, Split, colour, mixed

BACKDROP = 128  # px

Family = Callable[[np.random.Generator, Sequence[Colour]], Image.Image]


def _along(rng: np.random.Generator) -> np.ndarray:
    """Return the distance of each pixel along a random direction, float32 [BACKDROP, BACKDROP] in px."""
    dx, dy = rng.normal(size=2)
    length = np.sqrt(dx * dx + dy * dy)
    ys, xs = np.mgrid[:BACKDROP, :BACKDROP]
    distance: np.ndarray = (xs * dx + ys * dy) / length
    return distance.astype(np.float32)


def gradients(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """One colour turns into another along a line."""
    distance = _along(rng)
    return mixed((distance - distance.min()) / np.ptp(distance), colours[0], colours[1])


def checkers(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """A chessboard."""
    ys, xs = np.mgrid[:BACKDROP, :BACKDROP] // int(rng.integers(7, 22))
    return mixed((xs + ys) % 2, colours[0], colours[1])


def clouds(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """Smooth noise of two scales."""
    weight = np.zeros((BACKDROP, BACKDROP), dtype=np.float32)
    for cells, share in ((int(rng.integers(3, 6)), 0.65), (int(rng.integers(9, 16)), 0.35)):
        noise = Image.fromarray(rng.integers(0, 256, size=(cells, cells), dtype=np.uint8))
        weight += share / 255 * np.asarray(noise.resize((BACKDROP, BACKDROP), Image.Resampling.BICUBIC), dtype=np.float32)
    return mixed(weight, colours[0], colours[1])


def blocks(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """Large overlapping rectangles."""
    image = Image.new("RGB", (BACKDROP, BACKDROP), colours[0])
    draw = ImageDraw.Draw(image)
    for i in range(16):
        left, top, width, height = (int(value) for value in rng.integers((-20, -20, 20, 20), (BACKDROP, BACKDROP, 80, 80)))
        draw.rectangle((left, top, left + width, top + height), fill=colours[i % len(colours)])
    return image


def ripples(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """Rings round a point, which may lie outside."""
    ys, xs = np.mgrid[:BACKDROP, :BACKDROP].astype(np.float32)
    x, y = rng.integers(-30, BACKDROP + 30, size=2).astype(np.float32)
    return mixed(np.floor(np.sqrt((xs - x) ** 2 + (ys - y) ** 2) / int(rng.integers(6, 20))) % 2, colours[0], colours[1])


def scribbles(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """Broken lines across the whole picture."""
    image = Image.new("RGB", (BACKDROP, BACKDROP), colours[0])
    draw = ImageDraw.Draw(image)
    for i in range(8):
        points = [(int(x), int(y)) for x, y in rng.integers(-10, BACKDROP + 10, size=(4, 2))]
        draw.line(points, fill=colours[1 + i % 2], width=int(rng.integers(3, 9)))
    return image


def stripes(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """Parallel stripes in any direction."""
    return mixed(np.floor(_along(rng) / rng.uniform(6, 20)) % 2, colours[0], colours[1])


def dots(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """Discs on a square grid."""
    period, radius = int(rng.integers(12, 28)), rng.uniform(0.2, 0.36)
    ys, xs = np.mgrid[:BACKDROP, :BACKDROP] % period - period / 2
    return mixed(xs**2 + ys**2 < (radius * period) ** 2, colours[0], colours[1])


def patches(rng: np.random.Generator, colours: Sequence[Colour]) -> Image.Image:
    """Large overlapping triangles."""
    image = Image.new("RGB", (BACKDROP, BACKDROP), colours[0])
    draw = ImageDraw.Draw(image)
    for i in range(14):
        corners = rng.integers(-20, BACKDROP + 20, size=(3, 2))
        draw.polygon([(int(x), int(y)) for x, y in corners], fill=colours[i % len(colours)])
    return image


FAMILIES: Mapping[Look, Sequence[Family]] = {
    "train": (gradients, checkers, clouds, blocks, ripples, scribbles),
    "test": (stripes, dots, patches),
}


def _light(rng: np.random.Generator) -> Image.Image:
    """Return smooth light of 55 to 100 %, as RGB."""
    cells = int(rng.integers(3, 6))
    spots = Image.fromarray(rng.integers(140, 256, size=(cells, cells), dtype=np.uint8))
    light = spots.resize((BACKDROP, BACKDROP), Image.Resampling.BICUBIC)
    return Image.merge("RGB", (light, light, light))


def backdrop(rng: np.random.Generator, split: Split, family: Family) -> Image.Image:
    """Return an RGB background of BACKDROP x BACKDROP px: three in four are pale, the others dark."""
    saturation, value = ((0.05, 0.25), (0.82, 1.0)) if rng.random() < 0.75 else ((0.2, 0.5), (0.12, 0.4))
    return ImageChops.multiply(family(rng, [colour(rng, split, saturation, value) for _ in range(3)]), _light(rng))
