"""The price of a threshold: recall on known false negatives against known true negatives lost, as the threshold moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgray.config.schema import Direction
from fgray.mining.candidates import Candidates, Sides
from fgray.mining.filters import Chain
from fgray.mining.resources import Resources

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """What one threshold does.

    Attributes:
        threshold: value of the option.
        recall: family of transforms -> share of its retrieved false negatives that are dropped; None where none was retrieved.
        lost: share of the true negatives that are dropped; None where there are none.
        hardest: the same of each anchor's first ones (see `fgray.mining.audit`).
    """

    threshold: float
    recall: Mapping[str, float | None]
    lost: float | None
    hardest: float | None


@dataclass(frozen=True)
class Curve:
    """One option of one filter, alone in force.

    Attributes:
        filter, option: which.
        current: the value that the run uses; None where it is off.
        points: by threshold, ascending.
    """

    filter: str
    option: str
    current: float | None
    points: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json and the report."""
        points = [
            {"threshold": point.threshold, "recall": dict(point.recall), "lost": point.lost, "hardest": point.hardest}
            for point in self.points
        ]
        return {"filter": self.filter, "option": self.option, "current": self.current, "points": points}


def price_curves(
    direction: Direction,
    chain: Chain,
    candidates: Candidates,
    families: Mapping[str, Mask],
    true: Mask,
    hard: npt.NDArray[np.int64],
    sides: Sides,
    resources: Resources,
) -> tuple[Curve, ...]:
    """Return the curves of all options of the chain's filters that have a threshold; every point is that filter's own verdict.

    Args:
        direction: some options work in some directions only.
        chain: the filters.
        candidates: whole rows.
        families: name -> which candidates are false negatives of that kind, bool [m].
        true: which candidates are true negatives, bool [m].
        hard: positions of the hardest of these.
        sides: see `Filter.keep`.
        resources: likewise.
    """
    curves = []
    for name, built in chain:
        for option, series in built.curve(direction).items():
            points = []
            for threshold, turned in sorted(series, key=lambda pair: pair[0]):
                dropped = ~turned.keep(candidates, sides, resources)
                recall = {family: share_of(dropped[here]) for family, here in families.items()}
                points.append(Point(threshold + 0.0, recall, share_of(dropped[true]), share_of(dropped[hard])))  # -0.0 becomes 0.0
            current = getattr(built, option)
            curves.append(Curve(name, option, None if current is None else float(current), tuple(points)))
    return tuple(curves)


def share_of(dropped: Mask) -> float | None:
    """Return the share of True; None of nothing."""
    return int(np.count_nonzero(dropped)) / len(dropped) if len(dropped) else None
