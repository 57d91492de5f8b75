"""Drives units to completion: hands them to a runner, splits those that kill their workers, reports progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from fgray.engine.progress import Progress
from fgray.engine.serial import run_serial
from fgray.engine.stages import Receipt, Stage, died_part
from fgray.engine.store import ResultStore
from fgray.engine.units import Unit

Runner = Literal["ray", "serial"]


def run_units(
    units: Sequence[Unit], stages: Sequence[Stage], store: ResultStore, numerics: Mapping[str, Any], runner: Runner, progress: Progress
) -> None:
    """Compute and commit every unit.

    A unit that was given up (its workers died twice, or memory ran out) is split in halves, down to single items;
    a single item that still cannot be computed is committed with an error, which quarantines it.

    Raises:
        FgrayError: what a stage or the storage raised.
    """
    queue = list(units)
    while queue:
        again: list[Unit] = []
        for receipt in _runner(runner)(queue, stages, store, numerics):
            unit = queue[receipt.unit]
            if receipt.died is None:
                progress.committed(unit.kind, unit.items.num_rows, receipt)
            elif unit.items.num_rows > 1:
                again += unit.halves()
                progress.split(unit.items.num_rows, receipt.died)
            else:
                store.commit(unit.kind, died_part(unit.items, receipt.died), numerics)
                progress.committed(unit.kind, 1, receipt)
        queue = again


def _runner(name: Runner) -> Callable[[Sequence[Unit], Sequence[Stage], ResultStore, Mapping[str, Any]], Iterator[Receipt]]:
    if name == "serial":
        return run_serial
    from fgray.engine.ray_data import run_ray  # half a second of import that a serial run does not need

    return run_ray
