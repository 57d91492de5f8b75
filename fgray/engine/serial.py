"""Runs units through stages in this process: for small jobs, tests, and machines without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fgray.engine.stages import Chunk, Receipt, Stage, commit_chunk, numerics_of, run_stage, thread_limit
from fgray.engine.store import ResultStore
from fgray.engine.units import Unit


def run_serial(units: Sequence[Unit], stages: Sequence[Stage], store: ResultStore, numerics: Mapping[str, Any]) -> Iterator[Receipt]:
    """Run every unit through every stage, one after the other, and yield a receipt per committed unit.

    A unit that does not fit into memory is given up (``Receipt.died``), so that the caller can split it.
    """
    functions = [(stage, stage.build()) for stage in stages]
    numerics = numerics_of(stages[-1], numerics)
    for index, unit in enumerate(units):
        chunk = Chunk(unit.kind, unit.items)
        try:
            for stage, function in functions:
                with thread_limit(stage.threads):
                    run_stage(stage.name, function, chunk)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            yield Receipt(index, 0, 0, chunk.seconds, died=f"out of memory: {error}")
            continue
        commit_chunk(chunk, store, numerics)
        yield Receipt(index, unit.items.num_rows, len(chunk.errors), chunk.seconds, numerics=numerics)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that host or GPU memory ran out (torch's own class is matched by name: no torch here)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
