"""What a run was predicted to take beside what it took: run.json's "plan" beside its "timing"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fgray.report.timeline import clock
from fgray.report.wording import MISSING, plural, words

_KINDS = {"embed_image": "image", "embed_text": "text", "embed_region": "region"}


class Compared(NamedTuple):
    """One line: what, predicted, measured."""

    what: str
    predicted: str
    measured: str


def planned_and_measured(run: Mapping[str, Any]) -> list[Compared]:
    """Return the lines; none where nothing was predicted or nothing was left to compute."""
    plan: Mapping[str, Any] = run.get("plan") or {}
    timing: Mapping[str, Any] = run.get("timing") or {}
    if not plan or not timing.get("running_seconds") or not (timing.get("by_kind") or timing.get("pairs_per_second")):
        return []
    rows = [
        Compared("Time", _time(plan.get("seconds")), _time(timing.get("running_seconds"))),
        Compared("Until the workers compute", _time(plan.get("startup_seconds")), _time(timing.get("startup_seconds"))),
        Compared("Limiting stage", str(plan.get("limiting_stage") or MISSING), str(timing.get("limiting_stage") or MISSING)),
    ]
    if timing.get("pairs_per_second"):
        rows.append(Compared("Pairs per second", _number(plan.get("pairs_per_second")), _number(timing["pairs_per_second"])))
        memory = (plan.get("memory_gib") or {}).get("a training worker")
        rows.append(Compared("Memory of a worker, at most", _gib(memory), _gib(timing.get("memory_gib"))))
    planned: Mapping[str, Mapping[str, Any]] = plan.get("kinds") or {}
    for kind, one in (timing.get("by_kind") or {}).items():
        for stage in ("decode", "model"):
            if one.get("items") and one.get(stage) and (stage != "decode" or kind != "embed_text"):
                what = f"{words(stage)}, one {_KINDS.get(kind, kind)} on one worker"
                rows.append(Compared(what, _milli((planned.get(kind) or {}).get(stage)), _milli(one[stage] / one["items"])))
    cost = plan.get("cost")
    if cost:
        rows.append(Compared("Cost", f"{cost['total']:.2f} {cost['currency']}", MISSING))
    return [row for row in rows if (row.predicted, row.measured) != (MISSING, MISSING)]


def basis(run: Mapping[str, Any]) -> str:
    """Return what the prediction stood on."""
    runs = (run.get("plan") or {}).get("calibrated_by_runs") or 0
    return (
        f"calibrated on {plural(runs, 'earlier run')}" if runs else "by formula and the device's data sheet; no earlier run had measured it"
    )


def _time(seconds: float | None) -> str:
    return MISSING if seconds is None else clock(seconds)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.4g}"


def _gib(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2g} GiB"


def _milli(seconds: float | None) -> str:
    return MISSING if seconds is None else f"{1000 * seconds:.3g} ms"
