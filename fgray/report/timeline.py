"""What a run did over time, from its log.jsonl: units per node, units that were split, attempts that were lost, interruptions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from fgray.report import wording
from fgray.report.charts import line, svg, text, ticks
from fgray.runs import RunFolder

BINS = 100
LANES = 16  # nodes with a lane of their own; the others share one
_LEFT, _RIGHT, _TOP, _LANE, _GAP, _AXIS, _WIDTH = 120, 12, 18, 22, 6, 26, 520
_OTHERS = "other nodes"


@dataclass
class Timeline:
    """What happened when.

    Attributes:
        seconds: running time of all attempts together; between them nothing is drawn.
        units: (node, when, items) of every committed unit; the node is "" where there is but one.
        lost: (node, when, attempts) of units that had been begun before and were lost with their worker or node.
        splits: (when, reason) of units that were given up and run again in halves.
        attempts: when each attempt after the first began, and each further pass over units (a search after embedding).
    """

    seconds: float = 0.0
    units: list[tuple[str, float, int]] = field(default_factory=list)
    lost: list[tuple[str, float, int]] = field(default_factory=list)
    splits: list[tuple[float, str]] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        """The nodes in the order in which they committed their first unit."""
        return list(dict.fromkeys(node for node, _, _ in self.units))

    def sentence(self) -> str:
        """Return the counts in words."""
        items = sum(count for _, _, count in self.units)
        parts = [f"{wording.plural(len(self.units), 'unit')} with {wording.plural(items, 'item')}"]
        if self.nodes != [""]:
            parts.append(f"on {wording.plural(len(self.nodes), 'node')}")
        parts.append(f"in {clock(self.seconds)}")
        lost = sum(count for _, _, count in self.lost)
        if lost:
            parts.append(f"; {wording.plural(lost, 'attempt')} died with a worker or node and {'was' if lost == 1 else 'were'} done again")
        if self.splits:
            parts.append(f"; {wording.plural(len(self.splits), 'unit')} given up and split")
        return " ".join(parts).replace(" ;", ";") + "."


def read_timeline(run: RunFolder) -> Timeline | None:
    """Return the timeline of a run; None where its log names no unit."""
    if not run.storage.exists(run.LOG):
        return None
    found = timeline_of(json.loads(row) for row in run.storage.read_bytes(run.LOG).splitlines())
    return found if len(found.units) > 1 else None


def timeline_of(rows: Iterable[dict[str, Any]]) -> Timeline:
    """Return what the rows of log.jsonl say; their clock begins anew with every attempt and pass."""
    found, start, last, told = Timeline(), 0.0, 0.0, False
    for row in rows:
        event, at = row.get("event"), float(row.get("at") or 0.0)
        told |= event == "start"
        # Logs of fgray before 2026-11-22 do not tell where an attempt starts.
        if (event == "start" and last) or (event in ("unit", "split") and not told and at < last):
            start, last = start + last, 0.0
            found.attempts.append(start)
        if event not in ("unit", "split"):
            continue
        last = at
        when = start + last
        if row["event"] == "split":
            found.splits.append((when, str(row.get("reason") or "")))
            continue
        node = str(row.get("node") or "")
        found.units.append((node, when, int(row["items"])))
        if row.get("lost"):
            found.lost.append((node, when, int(row["lost"])))
    found.seconds = start + last
    return found


def draw(timeline: Timeline) -> Markup:
    """Return the timeline as a picture: a lane per node, bars as high as the items committed in that time."""
    named = timeline.nodes[: LANES - 1] if len(timeline.nodes) > LANES else timeline.nodes
    lanes = [*named, *([_OTHERS] if len(timeline.nodes) > len(named) else [])]
    row_of = {node: number for number, node in enumerate(named)}
    span = timeline.seconds or 1.0
    counts = [[0] * BINS for _ in lanes]
    for node, when, items in timeline.units:
        counts[row_of.get(node, len(lanes) - 1)][min(BINS - 1, int(BINS * when / span))] += items
    highest = max(max(row) for row in counts)
    bottom = _TOP + len(lanes) * (_LANE + _GAP)
    parts: list[Markup] = []
    for value in ticks(0.0, span / _unit(span)[0]):
        x = _across(value * _unit(span)[0], span)
        parts += [line(x, _TOP, x, bottom, "grid"), text(x, bottom + 18, f"{value:g}", "middle")]
    parts.append(text(_WIDTH - _RIGHT, _TOP - 5, _unit(span)[1], "end"))
    for when in timeline.attempts:
        parts.append(line(_across(when, span), _TOP - 4, _across(when, span), bottom, "current"))
    for number, (node, row) in enumerate(zip(lanes, counts, strict=True)):
        parts += _lane(node, row, highest, _TOP + number * (_LANE + _GAP) + _LANE, span)
    for node, when, count in timeline.lost:
        y = _TOP + row_of.get(node, len(lanes) - 1) * (_LANE + _GAP) + 5
        said = f"done again here: {wording.plural(count, 'attempt')} lost with a worker or node"
        parts.append(_mark("lost", f"M{_across(when, span):.1f} {y:.1f}m-4 -4l8 8m0 -8l-8 8", said))
    for when, reason in timeline.splits:
        parts.append(_mark("split", f"M{_across(when, span):.1f} {_TOP:.1f}l-5 -9h10z", f"a unit was split: {reason}"))
    return svg(parts, bottom + _AXIS, f"Items committed over time: {timeline.sentence()}", _WIDTH)


def legend(timeline: Timeline) -> list[tuple[str, str]]:
    """Return (sign, meaning) of the marks that the picture has."""
    found = []
    if timeline.lost:
        found.append(("×", "unit done again after its worker or node died"))
    if timeline.splits:
        found.append(("▼", "unit given up and split"))
    if timeline.attempts:
        found.append(("┆", "the run was started again, or went on to its next task"))
    return found


def clock(seconds: float) -> str:
    """Return a running time in words."""
    size, name = _unit(seconds)
    return f"{seconds / size:.3g} {name}"


def _lane(node: str, row: Sequence[int], highest: int, base: float, span: float) -> list[Markup]:
    width = (_WIDTH - _LEFT - _RIGHT) / BINS
    name = node or "all units"
    shown = name if len(name) <= 13 else f"{name[:12]}…"
    parts = [Markup("<g><title>{}</title>").format(name), text(_LEFT - 8, base - 6, shown, "end"), Markup("</g>")]
    parts.append(line(_LEFT, base, _WIDTH - _RIGHT, base, "axis"))
    for number, items in enumerate(row):
        if items:
            height = max(1.5, _LANE * items / highest)
            said = f"{name}: {wording.plural(items, 'item')} until {clock(span * (number + 1) / BINS)}"
            place = f'x="{_LEFT + number * width:.2f}" y="{base - height:.2f}" width="{max(0.8, width - 0.8):.2f}" height="{height:.2f}"'
            parts.append(Markup('<rect class="kept" {}><title>{}</title></rect>').format(Markup(place), said))
    return parts


def _mark(style: str, path: str, said: str) -> Markup:
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(style, path, said)


def _across(when: float, span: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * when / span


def _unit(seconds: float) -> tuple[float, str]:
    return next((unit for unit in ((3600.0, "h"), (60.0, "min")) if seconds >= 2 * unit[0]), (1.0, "s"))
