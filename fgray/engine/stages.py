"""What a stage is: a plain callable built once per worker, fed one whole unit at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt
import pyarrow as pa

from fgray.engine.store import ResultStore, build_part

Arrays = dict[str, npt.NDArray[Any]]


@dataclass
class Chunk:
    """A unit on its way through the stages.

    Attributes:
        kind: request kind of the unit.
        items: its items.
        arrays: what the last stage made of them; each array's first axis runs along the items.
        errors: row -> "stage: reason" of items that cannot be computed (an undecodable image). Their array rows are ignored.
        seconds: stage name -> time spent.
    """

    kind: str
    items: pa.Table
    arrays: Arrays = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class StageFunction(Protocol):
    """One step of the pipeline.

    Input/output errors must be raised (they fail the run after the storage layer's retries); what is wrong with
    an item itself goes into ``chunk.errors``.
    """

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return new arrays for the chunk; may add to ``chunk.errors``."""
        ...


@dataclass(frozen=True)
class Stage:
    """How to build and place a stage.

    Attributes:
        name: as progress shows it.
        build: called once in each worker; must be picklable.
        workers: number of workers (fixed pool).
        cpus, gpus: logical resources of one worker.
        threads: threads that a worker's numerical libraries may use.
        numerics: what numbers depend on and only the worker's machine can tell (its device, its libraries); must be picklable.
    """

    name: str
    build: Callable[[], StageFunction]
    workers: int = 1
    cpus: float = 1
    gpus: float = 0
    threads: int = 1
    numerics: Callable[[], Mapping[str, Any]] | None = None


class Receipt(NamedTuple):
    """What comes back to the driver of a unit: committed, or given up so that it can be split.

    Attributes:
        unit: index of the unit in the list that was run.
        committed: items in the committed part; 0 when the unit was given up.
        errors: items among them that carry an error.
        seconds: stage name -> time spent.
        died: reason why the unit was given up, or None.
        node: address and name of the node that committed the unit; "" where there is but one.
        lost: attempts before it that died with their worker or node.
        numerics: the numerics class that the unit was computed in.
    """

    unit: int
    committed: int
    errors: int
    seconds: Mapping[str, float]
    died: str | None = None
    node: str = ""
    lost: int = 0
    numerics: Mapping[str, Any] = MappingProxyType({})


def numerics_of(stage: Stage, numerics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numerics class of what a stage computes in this process: what the driver knows, and what only this machine can tell."""
    return {**numerics, **(stage.numerics() if stage.numerics is not None else {})}


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Give numerical libraries that many threads in the body: a sum over more threads is a sum in another order.

    Only torch needs to be told, where a stage has imported it.
    """
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


def run_stage(name: str, function: StageFunction, chunk: Chunk) -> None:
    """Apply one stage to a chunk in place and note its time."""
    start = time.perf_counter()
    chunk.arrays = function(chunk)
    chunk.seconds[name] = time.perf_counter() - start


def commit_chunk(chunk: Chunk, store: ResultStore, numerics: Mapping[str, Any]) -> None:
    """Write the chunk's part; after this line its unit is done, whatever dies next."""
    start = time.perf_counter()
    store.commit(chunk.kind, build_part(chunk.items, chunk.arrays, chunk.errors), numerics)
    chunk.seconds["commit"] = time.perf_counter() - start


def died_part(items: pa.Table, reason: str) -> pa.Table:
    """Return the part that quarantines a single item whose worker died again and again."""
    return build_part(items, {}, dict.fromkeys(range(items.num_rows), f"worker: {reason}"))
