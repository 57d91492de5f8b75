"""From rates and pools to the time of a run and the stage that limits it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fgray.launch.plan.rates import Asked, Rate


@dataclass(frozen=True)
class Flow:
    """How long the stages of a run take.

    Attributes:
        stages: stage -> seconds that it would take if the others took none.
        seconds: of the whole, from the first unit's start; None where a rate is not known.
        limiting_stage: the longest of the stages.
        calibrated: fewest runs that measured a stage which matters; 0: some rate is by formula.
    """

    stages: dict[str, float]
    seconds: float | None
    limiting_stage: str
    calibrated: int


def flow(
    asked: Sequence[Asked],
    rates: Mapping[str, Mapping[str, Rate]],
    workers: Mapping[str, int],
    unit_rows: int,
    read_bytes_per_second: float,
    cores: float | None,
    together: bool = True,
) -> Flow:
    """Return the time of units that stream through the stages.

    All stages work at the same time, so the slowest decides; the model's workers also commit. Units are whole: three workers need for
    four units as long as for six.

    Args:
        asked: the missing items by request kind.
        rates: kind -> stage -> rate.
        workers: "decode" and "model" -> workers.
        unit_rows: items of a unit.
        read_bytes_per_second: of the network or disk, all readers together.
        cores: that model and decoding share; None: they do not.
        together: the stages work at the same time; else one after the other (runner serial).
    """
    items = sum(one.items for one in asked)
    if not items:
        return Flow({}, 0.0, "none", 0)
    busy = {
        stage: math.fsum(one.items * (rates[one.kind][stage].seconds or 0.0) for one in asked) for stage in ("decode", "model", "commit")
    }
    units = {one.kind: math.ceil(one.items / unit_rows) for one in asked}
    stages = {
        "read": math.fsum(one.items * one.bytes for one in asked) / read_bytes_per_second,
        "decode": _spread(busy["decode"], sum(count for kind, count in units.items() if rates[kind]["decode"].seconds), workers["decode"]),
        "model": _spread(busy["model"], sum(units.values()), workers["model"]),
        "store": _spread(busy["commit"], sum(units.values()), workers["model"]),
    }
    unknown = any(rates[one.kind]["model"].seconds is None for one in asked if one.items)
    longest = max(stages, key=lambda stage: stages[stage])
    slowest = max(stages["read"], stages["decode"], stages["model"] + stages["store"])
    runs = [rates[one.kind][stage].runs for one in asked if one.items for stage in ("decode", "model") if rates[one.kind][stage].seconds]
    calibrated = min(runs, default=0)
    if cores and not calibrated:  # measured rates hold the waiting for a core already
        slowest = max(slowest, math.fsum(busy.values()) / cores)
    if not together:
        slowest = math.fsum(stages.values()) - stages["read"]  # the decoder's rate holds its reading
    if unknown:
        return Flow({name: value for name, value in stages.items() if name != "model"}, None, "unknown", 0)
    images = [one for one in asked if one.items and rates[one.kind]["decode"].seconds]
    first = min(unit_rows, images[0].items) * (rates[images[0].kind]["decode"].seconds or 0.0) if images and together else 0.0
    return Flow(stages, slowest + first, longest, calibrated)


def _spread(seconds: float, units: int, workers: int) -> float:
    """Return the time of whole units on workers."""
    return 0.0 if not units else seconds / units * math.ceil(units / workers)
