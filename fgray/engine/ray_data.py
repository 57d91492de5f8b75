"""Runs units through stages on Ray Data. What is Ray about evaluation is in this file and in `ray_session`.

A unit is one row of one block from start to end: first its items, then arrays, then a receipt. So whatever Ray does
to blocks, a unit's result is written whole, by the actor that computed it. A worker may die at any moment: Ray runs
its unit again elsewhere, and the ledger sees to it that a unit which kills its workers is given up, not retried for ever.

On a cluster all workers are asked for at once, so that its autoscaler sees what the work needs; the first ones start while nodes
for the others come up. When no unit waits any more, idle workers are released, and their nodes go. A pool never grows or shrinks while
there is work, so no pool may need what another one holds: a cluster without GPUs has one pool, whose workers do all stages; where there
are GPUs, those who compute on them take no CPUs. So every node that is left can go on alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fgray import errors
from fgray.engine.cluster import cluster
from fgray.engine.notices import watch
from fgray.engine.ray_metrics import Counters
from fgray.engine.ray_session import check_resources, start_ray
from fgray.engine.serial import is_out_of_memory
from fgray.engine.stages import Chunk, Receipt, Stage, StageFunction, commit_chunk, numerics_of, run_stage, thread_limit
from fgray.engine.store import ResultStore
from fgray.engine.units import Unit
from fgray.errors import FgrayError, RunError

WAVE = 2_000  # units of one Ray Data execution; all workers start anew for each
WAVE_PER_WORKER = 128  # where that is more
WAVE_ROWS = 1 << 24  # at most: the items are in the object store of the driver's node until the end, some 120 bytes each
MAX_DEATHS = 2  # attempts of a unit that may die before it is split
MAX_STARTS = 3  # of one worker that die before it is built; Ray itself would try for ever
ARRAY = "array."  # prefix of array columns in a row


def run_ray(units: Sequence[Unit], stages: Sequence[Stage], store: ResultStore, numerics: Mapping[str, Any]) -> Iterator[Receipt]:
    """Run units through the stages on Ray and yield receipts as units are committed or given up, in any order.

    Raises:
        FgrayError: what a stage raised (storage that stays away, a model that cannot be loaded).
        RunError: the cluster is too small for the stages' workers, or a stage failed with another exception.
    """
    start_ray(sum(stage.workers * stage.cpus for stage in stages))
    check_resources(stages)
    from ray.data import ActorPoolStrategy, DataContext  # not before Ray has started, see `start_ray`

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # the driver's node outlives the others
    ledger = ray.remote(_Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote()
    counters = Counters()
    pools = _pools(stages)
    for first, count in waves(units, max(stage.workers for stage in stages)):
        # One block per unit. `from_arrow` would start a task for each, which a cluster's workers leave no CPU for.
        data: ray.data.Dataset = ray.data.from_blocks(_Blocks(units, first, count))  # type: ignore[arg-type]
        for position, pool in enumerate(pools):
            last = position == len(pools) - 1
            workers = pool_workers(pool)
            data = data.map_batches(
                _StageWorker,
                fn_constructor_args=(pool, ledger, store if last else None, dict(numerics)),
                batch_size=1,
                batch_format="numpy",
                # On a cluster no node comes up for whom nothing is left.
                compute=ActorPoolStrategy(size=workers if cluster() is None else min(workers, count), max_tasks_in_flight_per_actor=2),
                num_cpus=0 if pool[0].gpus else max(stage.cpus for stage in pool),
                num_gpus=pool[0].gpus,
            )
        try:
            batches: Any = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for batch in batches:
                for row in batch.to_pylist():
                    if row["failure"]:
                        raise _failure(json.loads(row["failure"]))
                    receipt = _receipt(row)
                    counters.count(receipt, units[receipt.unit].items.num_rows)
                    yield receipt
        except ray.exceptions.RayError as error:
            raise RunError(f"Ray failed: {' '.join(str(error).split())[:300]}", fix="run the same command again; it resumes") from error


def waves(units: Sequence[Unit], workers: int) -> Iterator[tuple[int, int]]:
    """Yield the first unit and the number of units of each execution, all about as large.

    Args:
        units: all of them; none has more items than the first.
        workers: of the widest stage.
    """
    if units:
        number = -(-len(units) // wave_size(workers, units[0].items.num_rows))
        ends = [len(units) * done // number for done in range(number + 1)]
        yield from ((first, end - first) for first, end in pairwise(ends))


def wave_size(workers: int, unit_rows: int) -> int:
    """Return how many units one execution takes at most."""
    return max(1, min(max(WAVE, WAVE_PER_WORKER * workers), WAVE_ROWS // max(1, unit_rows)))


def _pools(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Return the stages that the actors of each pool do."""
    together = cluster() is not None and not any(stage.gpus for stage in stages)
    return [list(stages)] if together else [[stage] for stage in stages]


def pool_workers(pool: Sequence[Stage]) -> int:
    """Return how many workers a pool has that does all of some stages, with no more CPUs than the stages were given."""
    return max(1, int(sum(stage.workers * stage.cpus for stage in pool) // max(stage.cpus for stage in pool)))


class _Blocks(Sequence[pa.Table]):
    """The blocks of some units, each made when it is asked for: they are put into the object store one after the other."""

    def __init__(self, units: Sequence[Unit], first: int, count: int) -> None:
        self.units, self.first, self.size = units, first, count

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.size:
            raise IndexError(index)
        unit = self.units[self.first + index]
        return _Parcel(self.first + index, Chunk(unit.kind, unit.items)).block()


class _Ledger:
    """Counts attempts of (unit, stage) that began, and those that did not end; lives apart from the workers that may die.

    An attempt that was lost with its node says nothing against its unit: machines are taken away at any time.
    """

    def __init__(self) -> None:
        self.begun: dict[tuple[int, str], int] = {}
        self.open: dict[tuple[int, str], list[str]] = {}  # nodes of the attempts that have not ended
        self.starts: dict[str, list[str]] = {}

    def start(self, actor: str, node: str) -> int:
        """Note that an actor begins to be built and return how often it died over it before; Ray starts a dead one anew."""
        deaths = _on_living_nodes(self.starts.get(actor, []))
        self.starts.setdefault(actor, []).append(node)
        return deaths

    def built(self, actor: str) -> None:
        """Forget an actor's starts: what happens later is its units' doing."""
        self.starts.pop(actor, None)

    def begin(self, unit: int, stage: str, node: str) -> tuple[int, int, int]:
        """Note the start of an attempt.

        Returns:
            how many began before it, how many of those never ended, and how many of these were not lost with their node.
        """
        earlier, lost = self.begun.get((unit, stage), 0), self.open.setdefault((unit, stage), [])
        deaths, count = _on_living_nodes(lost), len(lost)
        self.begun[unit, stage] = earlier + 1
        lost.append(node)
        return earlier, count, deaths

    def end(self, unit: int, stage: str) -> None:
        self.open.pop((unit, stage), None)


def _on_living_nodes(nodes: Sequence[str]) -> int:
    if not nodes:
        return 0
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    return sum(node in alive for node in nodes)


class _StageWorker:
    """One actor of a pool, which does one stage or all of them.

    What goes wrong with a unit is not raised: an exception would travel through Ray's own retries and wrappings. It is a column of
    the row, and the driver raises it.
    """

    def __init__(self, stages: Sequence[Stage], ledger: Any, store: ResultStore | None, numerics: dict[str, Any]) -> None:
        self.stages, self.ledger, self.store, self.numerics = stages, ledger, store, numerics
        self.functions: list[StageFunction] = []
        self.broken: Exception | None = None
        context = ray.get_runtime_context()
        actor, self.node = context.get_actor_id() or "", context.get_node_id()
        deaths = ray.get(ledger.start.remote(actor, self.node))
        if deaths >= MAX_STARTS:
            what = f"the {stages[-1].name} worker died {deaths} times while it started (killed for its memory, or crashed)"
            self.broken = RunError(what, fix="free memory or lower compute.workers; compute.runner=serial shows a crash")
            return
        watch()
        try:
            self.functions = [stage.build() for stage in stages]
            self.numerics = numerics_of(stages[-1], numerics)
        except Exception as error:
            self.broken = error
        ledger.built.remote(actor)

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        parcel = _from_batch(batch)
        for number, stage in enumerate(self.stages):
            if parcel.died or parcel.failure:
                break
            earlier, lost, deaths = ray.get(self.ledger.begin.remote(parcel.unit, stage.name, self.node))
            parcel.lost += lost
            # A worker died, or its node was lost, between its commit and the receipt's arrival.
            done = bool(earlier) and self._is_committed(parcel.chunk)
            if deaths >= MAX_DEATHS and not done:
                parcel.died = f"the {stage.name} worker died {deaths} times"
            elif not done:
                self._work(parcel, number)
            self.ledger.end.remote(parcel.unit, stage.name)
            if done:
                break
        if self.store is None:
            return parcel.block()
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return parcel.receipt(f"{address} {self.node[-8:]}", self.numerics)

    def _is_committed(self, chunk: Chunk) -> bool:
        """Return whether an earlier attempt left the unit's part; then the chunk takes over its errors."""
        found = None
        if self.store is not None:
            with contextlib.suppress(FgrayError):  # computing again tells the storage's trouble, or overwrites a damaged part
                found = self.store.errors_of(chunk.kind, chunk.items["item_id"])
        if found is not None:
            chunk.errors = found
        return found is not None

    def _work(self, parcel: _Parcel, number: int) -> None:
        stage = self.stages[number]
        try:
            if self.broken is not None:
                raise self.broken
            with thread_limit(stage.threads):
                run_stage(stage.name, self.functions[number], parcel.chunk)
            if self.store is not None and number == len(self.stages) - 1:
                commit_chunk(parcel.chunk, self.store, self.numerics)
        except Exception as error:
            if is_out_of_memory(error):
                parcel.died = f"out of memory: {error}"
            else:
                parcel.failure = _describe(error, stage.name)


@dataclass
class _Parcel:
    """A chunk as it travels: one row of one block.

    Attributes:
        unit: its index on the driver.
        chunk: the unit's items and arrays.
        died: why the unit was given up, or "".
        failure: JSON of the exception that fails the run, or "".
        lost: attempts that died with their worker or node, over all stages.
    """

    unit: int
    chunk: Chunk
    died: str = ""
    failure: str = ""
    lost: int = 0

    def block(self) -> pa.Table:
        """Return the row for the next stage; an array is one tensor cell, which Ray moves without copying its rows."""
        from ray.data.extensions import ArrowTensorArray

        chunk = self.chunk
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, chunk.items.schema) as writer:
            writer.write_table(chunk.items)
        columns: dict[str, Any] = {
            **self._common(),
            "kind": pa.array([chunk.kind]),
            "items": pa.array([sink.getvalue().to_pybytes()], pa.large_binary()),
            "errors": pa.array([json.dumps(chunk.errors)]),
        }
        if not self.died and not self.failure:
            columns |= {ARRAY + name: ArrowTensorArray.from_numpy(array[None]) for name, array in chunk.arrays.items()}
        return pa.table(columns)

    def receipt(self, node: str, numerics: Mapping[str, Any]) -> pa.Table:
        """Return the row for the driver."""
        done = not self.died and not self.failure
        numbers = {"committed": self.chunk.items.num_rows if done else 0, "errors": len(self.chunk.errors)}
        texts = {"node": node, "numerics": json.dumps(dict(numerics))}
        return pa.table({**self._common(), **{name: pa.array([value]) for name, value in (numbers | texts).items()}})

    def _common(self) -> dict[str, Any]:
        texts = {"seconds": json.dumps(self.chunk.seconds), "died": self.died, "failure": self.failure}
        return {"unit": pa.array([self.unit]), "lost": pa.array([self.lost]), **{name: pa.array([text]) for name, text in texts.items()}}


def _receipt(row: Mapping[str, Any]) -> Receipt:
    seconds, numerics = json.loads(row["seconds"]), json.loads(row["numerics"])
    return Receipt(row["unit"], row["committed"], row["errors"], seconds, row["died"] or None, row["node"], row["lost"], numerics)


def _from_batch(batch: dict[str, np.ndarray]) -> _Parcel:
    items = pa.ipc.open_stream(bytes(batch["items"][0])).read_all()
    wrong = {int(row): reason for row, reason in json.loads(str(batch["errors"][0])).items()}
    arrays = {name.removeprefix(ARRAY): values[0] for name, values in batch.items() if name.startswith(ARRAY)}
    chunk = Chunk(str(batch["kind"][0]), items, arrays, wrong, json.loads(str(batch["seconds"][0])))
    return _Parcel(int(batch["unit"][0]), chunk, str(batch["died"][0]), str(batch["failure"][0]), int(batch["lost"][0]))


def _describe(error: Exception, stage: str) -> str:
    """Return an exception as JSON: fgray's own kinds keep their three parts, others become one line with their place."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, FgrayError):
        return json.dumps({"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix, "trace": trace})
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"the {stage} stage failed with {type(error).__name__}: {error}"
    return json.dumps({"kind": "RunError", "what": what, "where": f"{last.filename}:{last.lineno}", "fix": None, "trace": trace})


def _failure(content: Mapping[str, Any]) -> FgrayError:
    kind = getattr(errors, content["kind"], RunError)
    failure: FgrayError = kind(content["what"], where=content["where"], fix=content["fix"])
    if os.environ.get("FGRAY_DEBUG"):
        failure.add_note(content["trace"])  # the traceback in the worker, which the driver's own cannot show
    return failure
