"""Drives units to completion: hands them to a runner, splits those that kill their workers, reports progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from fgray.engine.part_index import PARTS, Listed
from fgray.engine.progress import Progress
from fgray.engine.serial import run_serial
from fgray.engine.stages import Receipt, Stage, died_part
from fgray.engine.store import ResultStore, numerics_text
from fgray.engine.units import ID_TYPE, Unit

Runner = Literal["ray", "serial"]


def run_units(
    units: Sequence[Unit], stages: Sequence[Stage], store: ResultStore, numerics: Mapping[str, Any], runner: Runner, progress: Progress
) -> None:
    """Compute and commit every unit; see `drive`."""
    run = _runner(runner)
    drive(units, lambda some: run(some, stages, store, numerics), store, numerics, progress)


def drive(
    units: Sequence[Unit],
    run: Callable[[Sequence[Unit]], Iterator[Receipt]],
    store: ResultStore,
    numerics: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Have every unit computed and committed, and keep the books.

    A unit that was given up (its workers died twice, or memory ran out) is split in halves, down to single items;
    a single item that still cannot be computed is committed with an error, which quarantines it.

    Args:
        units: what is to be done.
        run: computes and commits units and yields a receipt for each, in any order.
        store: where the parts go.
        numerics: the driver's share of the numerics class.
        progress: is told of every unit.

    Raises:
        FgrayError: what a stage or the storage raised.
    """
    queue: Sequence[Unit] = units
    notes = _Notes(store, numerics)
    while queue:
        again: list[Unit] = []
        for receipt in run(queue):
            unit = queue[receipt.unit]
            if receipt.died is None:
                progress.committed(unit.kind, unit.items.num_rows, receipt)
                notes.committed(unit, receipt)
            elif unit.items.num_rows > 1:
                again += unit.halves()
                progress.split(unit.items.num_rows, receipt.died)
            else:
                store.commit(unit.kind, died_part(unit.items, receipt.died), numerics)
                progress.committed(unit.kind, 1, receipt)
        queue = again


class _Notes:
    """Collects what committed parts hold and has the store keep it, so that the next plan need not open a million parts."""

    def __init__(self, store: ResultStore, numerics: Mapping[str, Any]) -> None:
        self.store, self.numerics = store, numerics
        self.parts: dict[str, list[tuple[str, str, pa.Array]]] = {}

    def committed(self, unit: Unit, receipt: Receipt) -> None:
        parts = self.parts.setdefault(unit.kind, [])
        parts.append((unit.id, numerics_text(receipt.numerics or self.numerics), unit.items["item_id"].combine_chunks().cast(ID_TYPE)))
        if len(parts) == PARTS:
            self.store.note(unit.kind, Listed.join(parts))
            del self.parts[unit.kind]


def _runner(name: Runner) -> Callable[[Sequence[Unit], Sequence[Stage], ResultStore, Mapping[str, Any]], Iterator[Receipt]]:
    if name == "serial":
        return run_serial
    from fgray.engine.ray_data import run_ray  # half a second of import that a serial run does not need

    return run_ray
