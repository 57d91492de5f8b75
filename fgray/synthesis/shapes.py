"""Shapes of drawn objects: each category is a function from a random generator to the polygons of one instance.

Coordinates are those of a unit square with y downwards; what sticks out of it is fine, as the drawing is cropped to its ink. Every draw
changes proportions and details within what still deserves the name; short sides stay above 0.45 of the long ones, so all can be counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]
Polygon = list[Point]

MAIN, SECOND, DETAIL = range(3)  # tones: the body, its other parts, what stands out from both


@dataclass(frozen=True)
class Part:
    """One painted area.

    Attributes:
        tone: MAIN, SECOND or DETAIL.
        fills: polygons whose union is painted.
        cuts: polygons that stay empty.
    """

    tone: int
    fills: Sequence[Polygon]
    cuts: Sequence[Polygon] = ()


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Polygon:
    """Return an arc of an ellipse as a polygon; degrees run clockwise from the right."""
    steps = max(3, round(abs(stop - start) / 9))
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Return an upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def stroke(points: Sequence[Point], width: float) -> list[Polygon]:
    """Return the polygons that cover a line of that width with round joints."""
    found = [ellipse(x, y, width / 2, width / 2) for x, y in points]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        dx, dy = (y1 - y0) / length * width / 2, (x0 - x1) / length * width / 2
        found.append([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)])
    return found


def smooth(points: Sequence[Point]) -> Polygon:
    """Return a closed Catmull-Rom curve through the points."""
    n, curve = len(points), []
    for i in range(n):
        p, q, r, s = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        for j in range(6):
            t = j / 6
            weights = ((-t + 2 * t**2 - t**3) / 2, (2 - 5 * t**2 + 3 * t**3) / 2, (t + 4 * t**2 - 3 * t**3) / 2, (t**3 - t**2) / 2)
            x, y = (sum(w * point[axis] for w, point in zip(weights, (p, q, r, s), strict=True)) for axis in (0, 1))
            curve.append((x, y))
    return curve


def mirrored(half: Sequence[Point]) -> list[Point]:
    """Return points of the right half, top to bottom, followed by their mirror images about x = 0.5, bottom to top."""
    return [*half, *((1 - x, y) for x, y in reversed(half))]


def _apple(r: np.random.Generator) -> list[Part]:
    wide, dent = r.uniform(0.4, 0.48), r.uniform(0.05, 0.1)
    half = [(0.5, 0.22 + dent), (0.5 + wide * 0.5, 0.2), (0.5 + wide, 0.45), (0.5 + wide * 0.8, 0.8), (0.5 + wide * 0.35, 0.97)]
    body = smooth([*mirrored(half)[:5], (0.5, 0.97 - dent / 2), *mirrored(half)[5:9]])
    lean = r.uniform(-0.1, 0.1)
    leaf = [(0.52, 0.2), (0.6, 0.06), (0.8, 0.02), (0.74, 0.14)]
    parts = [Part(DETAIL, stroke([(0.5, 0.3), (0.5 + lean, 0.03)], r.uniform(0.05, 0.08))), Part(MAIN, [body])]
    return [*parts, Part(SECOND, [smooth(leaf)])]


def _arrow(r: np.random.Generator) -> list[Part]:
    shaft, head, barb = r.uniform(0.08, 0.14), r.uniform(0.4, 0.58), r.uniform(0.26, 0.36)
    notch = r.uniform(0, 0.08)
    outline = [(0, 0.5 - shaft), (head + notch, 0.5 - shaft), (head, 0.5 - barb), (1, 0.5)]
    parts = [Part(MAIN, [[*outline, *((x, 1 - y) for x, y in reversed(outline[:3]))]])]
    if r.random() < 0.4:
        parts.append(Part(SECOND, [box(0, 0.5 - shaft, r.uniform(0.08, 0.16), 0.5 + shaft)]))
    return parts


def _bell(r: np.random.Generator) -> list[Part]:
    top, waist, flare = r.uniform(0.14, 0.22), r.uniform(0.24, 0.3), r.uniform(0.42, 0.48)
    arc = ellipse(0.5, 0.3, top, r.uniform(0.14, 0.2), -90, 0)
    half = [*arc, (0.5 + waist, 0.6), (0.5 + flare, 0.8), (0.5 + flare, 0.86)]
    parts = [Part(DETAIL, [ellipse(0.5, 0.88, 0.1, 0.1)]), Part(MAIN, [mirrored(half)])]
    parts.append(Part(SECOND, [box(0.5 - flare, 0.77, 0.5 + flare, 0.77 + r.uniform(0.07, 0.11))]))
    ring = r.uniform(0.07, 0.1)
    return [Part(DETAIL, [ellipse(0.5, 0.1, ring, ring)], [ellipse(0.5, 0.1, ring / 2, ring / 2)]), *parts]


def _boat(r: np.random.Generator) -> list[Part]:
    deck, keel, mast = r.uniform(0.64, 0.72), r.uniform(0.14, 0.26), r.uniform(0.4, 0.52)
    parts = [Part(DETAIL, [box(mast - 0.025, 0.0, mast + 0.025, deck)])]
    parts.append(Part(MAIN, [[(0, deck), (1, deck), (1 - keel, 0.95), (keel, 0.95)]]))
    parts.append(Part(SECOND, [[(mast + 0.02, 0.04), (mast + 0.02, deck), (0.95, deck)]]))
    if r.random() < 0.7:
        low = r.uniform(0.1, 0.25)
        parts.append(Part(SECOND, [[(mast - 0.02, low), (mast - 0.02, deck), (0.1, deck)]]))
    return parts


def _bottle(r: np.random.Generator) -> list[Part]:
    body, neck, shoulder = r.uniform(0.23, 0.27), r.uniform(0.08, 0.11), r.uniform(0.3, 0.42)
    half = [(0.5 + neck, 0.04), (0.5 + neck, shoulder - 0.12), (0.5 + body, shoulder + 0.06), (0.5 + body, 0.98)]
    parts = [Part(MAIN, [mirrored(half)]), Part(DETAIL, [box(0.5 - neck - 0.03, 0, 0.5 + neck + 0.03, r.uniform(0.07, 0.11))])]
    top = r.uniform(0.5, 0.6)
    return [*parts, Part(SECOND, [box(0.5 - body, top, 0.5 + body, top + r.uniform(0.18, 0.28))])]


def _car(r: np.random.Generator) -> list[Part]:
    roof, hood, floor = r.uniform(0.22, 0.3), r.uniform(0.46, 0.52), 0.74
    back, front = r.uniform(0.1, 0.2), r.uniform(0.68, 0.78)
    body = [
        (0, hood),
        (back - 0.06, hood),
        (back + 0.06, roof),
        (front - 0.14, roof),
        (front, hood),
        (0.95, hood + 0.04),
        (1, floor),
        (0, floor),
    ]
    pane = r.uniform(0.05, 0.07)
    panes = [[(back + 0.05, hood), (back + 0.1, roof + pane), (0.42, roof + pane), (0.42, hood)]]
    panes.append([(0.48, hood), (0.48, roof + pane), (front - 0.17, roof + pane), (front - 0.07, hood)])
    size = r.uniform(0.1, 0.13)
    wheels = [ellipse(x, floor, size, size) for x in (0.22, 0.77)]
    hubs = [ellipse(x, floor, size * 0.45, size * 0.45) for x in (0.22, 0.77)]
    return [Part(MAIN, [body]), Part(SECOND, panes), Part(DETAIL, wheels), Part(SECOND, hubs)]


def _crown(r: np.random.Generator) -> list[Part]:
    peaks, depth, base = int(r.choice([3, 5])), r.uniform(0.2, 0.32), r.uniform(0.8, 0.9)
    points = []
    for i in range(2 * peaks - 1):
        x = i / (2 * peaks - 2)
        points.append((x, 0.18 if i % 2 == 0 else 0.18 + depth))
    body = [*points, (0.9, base), (0.1, base)]
    parts = [Part(MAIN, [body]), Part(SECOND, [box(0.1, base - 0.16, 0.9, base)])]
    return [*parts, Part(DETAIL, [ellipse(x, 0.17, 0.055, 0.055) for x, y in points[::2]])]


def _cup(r: np.random.Generator) -> list[Part]:
    foot, high, ring = r.uniform(0.08, 0.2), r.uniform(0.74, 0.92), r.uniform(0.16, 0.22)
    body = [(0, 0.12), (0.72, 0.12), (0.72 - foot, high), (foot, high)]
    middle = 0.12 + (high - 0.12) * 0.42
    handle = Part(SECOND, [ellipse(0.7, middle, ring + 0.1, ring)], [ellipse(0.7, middle, ring + 0.01, ring - 0.08)])
    parts = [handle, Part(MAIN, [body])]
    if r.random() < 0.6:
        parts.append(Part(SECOND, [box(0.15, middle, 0.57, middle + r.uniform(0.06, 0.14))]))
    return [*parts, Part(DETAIL, [ellipse(0.36, 0.12, 0.36, r.uniform(0.05, 0.08))])]


def _flower(r: np.random.Generator) -> list[Part]:
    petals, length = int(r.integers(5, 9)), r.uniform(0.17, 0.2)
    wide, turn = min(0.17, 0.62 / petals), r.uniform(0, 360)
    heads = []
    for i in range(petals):
        angle = math.radians(turn + 360 * i / petals)
        c, s = math.cos(angle), math.sin(angle)
        heads.append([(0.5 + x * c - y * s, 0.36 + x * s + y * c) for x, y in ellipse(length, 0, length * 0.95, wide)])
    stem = Part(SECOND, stroke([(0.5, 0.4), (0.5 + r.uniform(-0.04, 0.04), 1.0)], r.uniform(0.06, 0.08)))
    leaves = [smooth([(0.5, 0.95), (0.62, 0.78), (0.84, 0.72), (0.72, 0.9)])]
    if r.random() < 0.6:
        leaves.append([(1 - x, y) for x, y in leaves[0]])
    middle = r.uniform(0.09, 0.13)
    return [stem, Part(SECOND, leaves), Part(MAIN, heads), Part(DETAIL, [ellipse(0.5, 0.36, middle, middle)])]


def _hat(r: np.random.Generator) -> list[Part]:
    crown, top, brim, spread = r.uniform(0.24, 0.3), r.uniform(0.1, 0.28), r.uniform(0.05, 0.08), r.uniform(-0.03, 0.06)
    body = [(0.5 - crown - spread, top), (0.5 + crown + spread, top), (0.5 + crown, 0.8), (0.5 - crown, 0.8)]
    band = r.uniform(0.1, 0.16)
    parts = [Part(MAIN, [body, ellipse(0.5, 0.82, 0.5, brim), ellipse(0.5, top, crown + spread, 0.04)])]
    return [*parts, Part(SECOND, [box(0.5 - crown, 0.78 - band, 0.5 + crown, 0.78)])]


def _heart(r: np.random.Generator) -> list[Part]:
    lobe, tip, dip = r.uniform(0.15, 0.2), r.uniform(0.86, 0.98), r.uniform(0.24, 0.3)
    half = [
        (0.5, dip),
        (0.62, dip - 0.09),
        (0.78, 0.3 - lobe),
        (0.94, 0.24),
        (1.0, 0.4),
        (0.9, 0.58),
        (0.7, 0.58 + (tip - 0.58) * 0.62),
        (0.5, tip),
    ]
    left = [(1 - x, y) for x, y in reversed(half[1:-1])]
    parts = [Part(MAIN, [smooth([*half, *left])])]
    if r.random() < 0.5:
        parts.append(Part(SECOND, [ellipse(0.26, 0.36, 0.08, r.uniform(0.07, 0.11))]))
    return parts


def _house(r: np.random.Generator) -> list[Part]:
    eaves, wall, peak = r.uniform(0.4, 0.5), r.uniform(0.08, 0.16), r.uniform(0.35, 0.65) if r.random() < 0.3 else 0.5
    door = r.uniform(0.2, 0.3)
    parts = [Part(MAIN, [box(wall, eaves - 0.03, 1 - wall, 1)])]
    if r.random() < 0.6:
        side = float(r.choice([0.22, 0.68]))
        parts.insert(0, Part(DETAIL, [box(side, 0.1, side + 0.11, eaves)]))
    parts += [Part(SECOND, [[(0, eaves), (peak, 0.02), (1, eaves)]])]
    parts.append(Part(DETAIL, [box(door, 0.66, door + 0.2, 1)]))
    left = r.uniform(0.58, 0.62)
    return [*parts, Part(SECOND, [box(left, 0.6, left + r.uniform(0.16, 0.2), 0.78)])]


def _key(r: np.random.Generator) -> list[Part]:
    ring, hole, bar = r.uniform(0.26, 0.29), r.uniform(0.4, 0.55), r.uniform(0.1, 0.13)
    teeth, depth = int(r.integers(2, 4)), r.uniform(0.14, 0.2)
    shaft = box(2 * ring - 0.05, 0.4 - bar / 2, 1.0, 0.4 + bar / 2)
    marks = [box(0.98 - 0.15 * i - 0.08, 0.4, 0.98 - 0.15 * i, 0.4 + bar / 2 + depth) for i in range(teeth)]
    return [Part(MAIN, [shaft, *marks]), Part(SECOND, [ellipse(ring, 0.4, ring, ring)], [ellipse(ring, 0.4, ring * hole, ring * hole)])]


def _ladder(r: np.random.Generator) -> list[Part]:
    rungs, rail, taper, half = int(r.integers(4, 7)), r.uniform(0.08, 0.1), r.uniform(0, 0.06), r.uniform(0.26, 0.3)
    lines = []
    for i in range(rungs):
        y = 0.1 + 0.8 * i / (rungs - 1)
        reach = half - taper * (1 - y)
        lines.append(box(0.5 - reach, y - 0.035, 0.5 + reach, y + 0.035))
    rails = [
        [(0.5 + s * (half - taper), 0.0), (0.5 + s * (half - taper + rail), 0.0), (0.5 + s * (half + rail), 1.0), (0.5 + s * half, 1.0)]
        for s in (-1, 1)
    ]
    return [Part(SECOND, lines), Part(MAIN, rails)]


def _moon(r: np.random.Generator) -> list[Part]:
    shift, inner = r.uniform(0.24, 0.32), r.uniform(0.4, 0.46)
    parts = [Part(MAIN, [ellipse(0.5, 0.5, 0.5, 0.5)], [ellipse(0.5 + shift, 0.5 - r.uniform(0, 0.1), inner, inner)])]
    if r.random() < 0.5:
        parts.append(Part(SECOND, [ellipse(0.13, 0.5, 0.05, 0.05), ellipse(0.27, 0.76, 0.06, 0.06)]))
    return parts


def _mushroom(r: np.random.Generator) -> list[Part]:
    rim, stem, foot = r.uniform(0.48, 0.58), r.uniform(0.11, 0.16), r.uniform(0, 0.08)
    cap = [*ellipse(0.5, rim, 0.5, rim - 0.02, 180, 360), *ellipse(0.5, rim, 0.5, 0.08, 0, 180)]
    stalk = [(0.5 - stem, rim), (0.5 + stem, rim), (0.5 + stem + foot, 0.98), (0.5 - stem - foot, 0.98)]
    spots = [ellipse(x, rim * y, size, size) for x, y, size in ((0.28, 0.62, 0.07), (0.55, 0.35, 0.08), (0.76, 0.7, 0.06))]
    return [Part(SECOND, [stalk]), Part(MAIN, [cap]), Part(DETAIL, spots[: int(r.integers(2, 4))])]


def _rocket(r: np.random.Generator) -> list[Part]:
    body, shoulder, fin = r.uniform(0.15, 0.19), r.uniform(0.28, 0.38), r.uniform(0.12, 0.16)
    half = [(0.5, 0.0), (0.5 + body * 0.65, shoulder * 0.45), (0.5 + body, shoulder), (0.5 + body, 0.8)]
    fins = [
        [(0.5 + s * body, 0.55), (0.5 + s * (body + fin), 0.78), (0.5 + s * (body + fin), 0.92), (0.5 + s * body, 0.8)] for s in (-1, 1)
    ]
    flame: list[Polygon] = [[(0.5 - body * 0.7, 0.8), (0.5 + body * 0.7, 0.8), (0.5, r.uniform(0.94, 1.0))]]
    pane = r.uniform(0.07, 0.09)
    window = Part(SECOND, [ellipse(0.5, shoulder + 0.08, pane, pane)])
    return [Part(DETAIL, flame), Part(SECOND, fins), Part(MAIN, [mirrored(half)]), window]


def _star(r: np.random.Generator) -> list[Part]:
    points, inner = int(r.choice([5, 5, 6])), r.uniform(0.2, 0.26)
    outline = []
    for i in range(2 * points):
        angle, radius = math.pi * i / points - math.pi / 2, 0.5 if i % 2 == 0 else inner
        outline.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    parts = [Part(MAIN, [outline])]
    if r.random() < 0.4:
        parts.append(Part(SECOND, [[(0.5 + (x - 0.5) * 0.45, 0.5 + (y - 0.5) * 0.45) for x, y in outline]]))
    return parts


def _tree(r: np.random.Generator) -> list[Part]:
    trunk = r.uniform(0.05, 0.09)
    parts = [Part(SECOND, [box(0.5 - trunk, 0.6, 0.5 + trunk, 1)])]
    if r.random() < 0.5:
        layers, spread = int(r.integers(2, 4)), r.uniform(0.34, 0.4)
        tops = [0.72 * i / layers * 0.9 for i in range(layers)]
        crown = [
            [(0.5, top), (0.5 + reach, top + 0.8 / layers + 0.05), (0.5 - reach, top + 0.8 / layers + 0.05)]
            for top, reach in zip(tops, (spread * (0.6 + 0.4 * (i + 1) / layers) for i in range(layers)), strict=True)
        ]
    else:
        size = r.uniform(0.19, 0.23)
        crown = [ellipse(x, y, size, size) for x, y in ((0.5, 0.22), (0.3, 0.4), (0.7, 0.4), (0.5, 0.5))]
    return [*parts, Part(MAIN, crown)]


def _umbrella(r: np.random.Generator) -> list[Part]:
    rim, scallops = r.uniform(0.46, 0.54), int(r.choice([3, 4, 5]))
    dome = ellipse(0.5, rim, 0.5, rim - 0.05, 180, 360)
    width = 1 / scallops
    bites = [ellipse((i + 0.5) * width, rim, width / 2, 0.09, 180, 360) for i in range(scallops)]
    hook = [(x, y) for x, y in ellipse(0.5 - 0.09, 0.88, 0.09, 0.09, 0, 180)]
    shaft = stroke([(0.5, 0.04), (0.5, 0.88)], 0.06)
    rib = [(0.5 - width / 2, rim), (0.5, 0.05), (0.5 + width / 2, rim)] if scallops % 2 else [(0.5, rim), (0.5, 0.05), (0.5 + width, rim)]
    parts = [Part(DETAIL, [*shaft, *stroke(hook, 0.06), box(0.48, 0, 0.52, 0.1)]), Part(MAIN, [dome], bites)]
    return [*parts, Part(SECOND, [rib], bites)]


SHAPES: Mapping[str, Callable[[np.random.Generator], list[Part]]] = {
    "apple": _apple,
    "arrow": _arrow,
    "bell": _bell,
    "boat": _boat,
    "bottle": _bottle,
    "car": _car,
    "crown": _crown,
    "cup": _cup,
    "flower": _flower,
    "hat": _hat,
    "heart": _heart,
    "house": _house,
    "key": _key,
    "ladder": _ladder,
    "moon": _moon,
    "mushroom": _mushroom,
    "rocket": _rocket,
    "star": _star,
    "tree": _tree,
    "umbrella": _umbrella,
}
