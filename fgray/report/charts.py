"""Small charts as inline SVG; their colours come from the page's stylesheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from fgray.report import wording

SERIES = 8
"""Number of line styles that the stylesheet has (classes s0, s1, …)."""

_WIDTH, _LEFT, _RIGHT = 520, 48, 16
_TOP, _HALF, _AXIS = 12, 62, 24  # of a histogram: margin, height of each side, room for the axis
_HEIGHT = 180  # of the plot of a curve


def histogram(edges: Sequence[float], kept: Sequence[int], dropped: Sequence[int], title: str) -> Markup:
    """Return a histogram with the kept upwards and the dropped downwards, each side to its own scale.

    Args:
        edges: n + 1 bounds of bins of equal width, ascending.
        kept: [n] counts.
        dropped: [n] counts.
        title: what is counted, for those who do not see the picture.
    """
    base, bins = _TOP + _HALF, len(kept)
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, bins)
    parts = []
    for name, counts, sign in (("kept", kept, -1), ("dropped", dropped, 1)):
        highest = max(counts, default=0)
        for number, count in enumerate(counts):
            if count:
                height = max(0.8, _HALF * count / highest)
                top = base - height if sign < 0 else base
                bounds = f"{name}: {wording.number(count)} from {_tick(edges[number])} to {_tick(edges[number + 1])}"
                place = f'x="{_LEFT + number * step + 0.5:.2f}" y="{top:.2f}" width="{max(0.5, step - 1):.2f}" height="{height:.2f}"'
                parts.append(Markup('<rect class="{}" {}><title>{}</title></rect>').format(name, Markup(place), bounds))
        y = _TOP + 4 if sign < 0 else base + _HALF
        parts.append(text(_LEFT - 6, y, wording.number(highest), "end"))
    parts.append(line(_LEFT, base, _WIDTH - _RIGHT, base, "axis"))
    across = (_WIDTH - _LEFT - _RIGHT) / (edges[-1] - edges[0])
    for value, label in _labelled(ticks(edges[0], edges[-1])):
        parts.append(text(_LEFT + across * (value - edges[0]), base + _HALF + 18, label, "middle"))
    return svg(parts, base + _HALF + _AXIS, f"{title}: {wording.number(sum(kept))} kept, {wording.number(sum(dropped))} dropped")


def curve(
    thresholds: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    price: Sequence[float | None],
    current: float | None,
    title: str,
) -> Markup:
    """Return shares from 0 to 100 % over a threshold.

    Args:
        thresholds: [n], ascending.
        series: name -> [n] shares, drawn as lines s0, s1, …; None leaves a gap.
        price: [n] shares, drawn dashed.
        current: the threshold in use, marked where it lies on the axis.
        title: for those who do not see the picture.
    """
    low, span = thresholds[0], (thresholds[-1] - thresholds[0]) or 1.0
    bottom = _TOP + _HEIGHT

    def across(threshold: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (threshold - low) / span

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - _HEIGHT * share
        parts += [line(_LEFT, y, _WIDTH - _RIGHT, y, "axis" if share == 0 else "grid"), text(_LEFT - 6, y + 4, f"{share:.0%}", "end")]
    for value, label in _labelled(ticks(low, thresholds[-1])):
        parts.append(text(across(value), bottom + 18, label, "middle"))
    if current is not None and low <= current <= thresholds[-1]:
        parts.append(line(across(current), _TOP, across(current), bottom, "current"))
    lines = [(f"s{number % SERIES}", values) for number, values in enumerate(series.values())]
    for style, values in [("price", price), *lines]:
        points = [None if share is None else (across(at), bottom - _HEIGHT * share) for at, share in zip(thresholds, values, strict=True)]
        for piece in _pieces(points):
            path = " ".join(f"{x:.2f},{y:.2f}" for x, y in piece)
            parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, path))
            parts += [Markup('<circle class="{}" cx="{:.2f}" cy="{:.2f}" r="2.4"/>').format(style, x, y) for x, y in piece]
    return svg(parts, bottom + _AXIS, title)


def lines(steps: Sequence[float], series: Mapping[str, Sequence[float | None]], title: str) -> Markup:
    """Return values over steps, all series on one scale that holds them.

    Args:
        steps: [n], ascending.
        series: name -> [n] values, drawn as lines s0, s1, …; None leaves a gap.
        title: for those who do not see the picture.
    """
    known = [value for values in series.values() for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    bottom, span = _TOP + _HEIGHT, (steps[-1] - steps[0]) or 1.0
    parts = [line(_LEFT, bottom, _WIDTH - _RIGHT, bottom, "axis")]
    for value, label in _labelled(ticks(low, high)):
        y = bottom - _HEIGHT * (value - low) / (high - low)
        parts += [line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"), text(_LEFT - 6, y + 4, label, "end")]
    for value in ticks(steps[0], steps[-1]):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - steps[0]) / span
        parts.append(text(x, bottom + 18, wording.number(round(value)), "middle"))
    for number, values in enumerate(series.values()):
        points = [
            None
            if value is None
            else (_LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - steps[0]) / span, bottom - _HEIGHT * (value - low) / (high - low))
            for step, value in zip(steps, values, strict=True)
        ]
        for piece in _pieces(points):
            path = " ".join(f"{x:.2f},{y:.2f}" for x, y in piece)
            parts.append(Markup('<polyline class="s{}" points="{}"/>').format(number % SERIES, path))
    return svg(parts, bottom + _AXIS, title)


def svg(parts: Sequence[Markup], height: float, label: str, width: float = _WIDTH) -> Markup:
    """Return a picture of these parts with a label for those who do not see it."""
    head = Markup('<svg class="plot" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(width, height, label)
    return head + Markup("").join(parts) + Markup("</svg>")


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """Return a straight line in a style of the stylesheet."""
    return Markup('<line class="{}" x1="{:.2f}" y1="{:.2f}" x2="{:.2f}" y2="{:.2f}"/>').format(style, x1, y1, x2, y2)


def text(x: float, y: float, content: Any, anchor: str) -> Markup:
    """Return words or a number; `anchor` is start, middle or end."""
    return Markup('<text x="{:.2f}" y="{:.2f}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(content))


def _tick(value: float, digits: int = 3) -> str:
    return f"{value + 0.0:.{digits}g}".replace("-", "−")  # no negative zero


def _labelled(values: Sequence[float]) -> list[tuple[float, str]]:
    """Return values with their labels, which have as many digits as it takes to tell them apart, and no fewer than three."""
    for digits in range(3, 16):
        labels = [_tick(value, digits) for value in values]
        if len(set(labels)) == len(labels):
            break
    return list(zip(values, labels, strict=True))


def ticks(low: float, high: float) -> list[float]:
    """Return round values from `low` to `high` at equal distances, at most eight of them."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 7))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _pieces(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Runs of points without a gap."""
    found: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            found.append([])
        else:
            found[-1].append(point)
    return [piece for piece in found if piece]
