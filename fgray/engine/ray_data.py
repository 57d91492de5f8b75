"""Runs units through stages on Ray Data. Everything that is Ray about evaluation is in this file.

A unit is one row of one block from start to end: first its items, then arrays, then a receipt. So whatever Ray does
to blocks, a unit's result is written whole, by the actor that computed it. A worker may die at any moment: Ray runs
its unit again elsewhere, and the ledger sees to it that a unit which kills its workers is given up, not retried for ever.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from fgray.engine.serial import is_out_of_memory
from fgray.engine.stages import Chunk, Receipt, Stage, commit_chunk, run_stage
from fgray.engine.store import ResultStore
from fgray.engine.units import Unit
from fgray.errors import FgrayError, RunError

WAVE = 2_000  # units planned into one Ray Data execution; bounds the driver's memory
MAX_DEATHS = 2  # attempts of a unit that may die before it is split
ARRAY = "array."  # prefix of array columns in a row


def run_ray(units: Sequence[Unit], stages: Sequence[Stage], store: ResultStore, numerics: Mapping[str, Any]) -> Iterator[Receipt]:
    """Run units through the stages on Ray and yield receipts as units are committed or given up, in any order.

    Raises:
        FgrayError: what a stage raised (storage that stays away, a model that cannot be loaded).
        RunError: the cluster is too small for the stages' workers, or a stage failed with another exception.
    """
    start_ray(stages)
    _check_resources(stages)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    ledger = _Ledger.remote()
    for first in range(0, len(units), WAVE):
        wave = units[first : first + WAVE]
        rows = [_to_row(first + index, Chunk(unit.kind, unit.items)) for index, unit in enumerate(wave)]
        data = ray.data.from_arrow([_block(row) for row in rows])
        for position, stage in enumerate(stages):
            last = position == len(stages) - 1
            data = data.map_batches(
                _StageWorker,
                fn_constructor_args=(stage, ledger, store if last else None, dict(numerics)),
                batch_size=1,
                batch_format="numpy",
                compute=ActorPoolStrategy(size=stage.workers, max_tasks_in_flight_per_actor=2),
                num_cpus=stage.cpus,
                num_gpus=stage.gpus,
                max_restarts=-1,
                max_task_retries=-1,
            )
        try:
            for batch in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from (_to_receipt(row) for row in batch.to_pylist())
        except ray.exceptions.RayError as error:
            raise _plain(error) from error


def start_ray(stages: Sequence[Stage]) -> None:
    """Join the Ray that this process already has, else start one inside it (never a stranger's cluster)."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Logical CPUs: a pipeline that wants more than there are would wait for ever without a word.
    demand = sum(stage.workers * stage.cpus for stage in stages)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, int(np.ceil(demand)) + 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    token = Path.home() / ".ray" / "auth_token"  # Ray writes it readable for everybody
    if token.exists():
        token.chmod(0o600)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _check_resources(stages: Sequence[Stage]) -> None:
    have = ray.cluster_resources()
    for name, need in (("CPU", sum(s.workers * s.cpus for s in stages)), ("GPU", sum(s.workers * s.gpus for s in stages))):
        if need > have.get(name, 0):
            raise RunError(f"the stages want {need:g} {name}s, Ray has {have.get(name, 0):g}", fix="lower compute.workers or compute.decode_workers")


@ray.remote(num_cpus=0, max_restarts=-1)
class _Ledger:
    """Counts attempts of (unit, stage) that began and did not end; lives apart from the workers that may die."""

    def __init__(self) -> None:
        self.open: dict[tuple[int, str], int] = {}

    def begin(self, unit: int, stage: str) -> int:
        """Note the start of an attempt and return how many earlier ones never ended."""
        deaths = self.open.get((unit, stage), 0)
        self.open[unit, stage] = deaths + 1
        return deaths

    def end(self, unit: int, stage: str) -> None:
        self.open.pop((unit, stage), None)


class _StageWorker:
    """One actor of one stage's pool."""

    def __init__(self, stage: Stage, ledger: Any, store: ResultStore | None, numerics: dict[str, Any]) -> None:
        limit_threads(stage.threads)
        self.name, self.ledger, self.store, self.numerics = stage.name, ledger, store, numerics
        self.function = stage.build()

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        index, chunk, died = _from_batch(batch)
        if died is None:
            deaths = ray.get(self.ledger.begin.remote(index, self.name))
            died = f"the {self.name} worker died {deaths} times" if deaths >= MAX_DEATHS else None
        if died is None:
            try:
                run_stage(self.name, self.function, chunk)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                died = f"out of memory: {error}"
            if died is None and self.store is not None:
                commit_chunk(chunk, self.store, self.numerics)
            self.ledger.end.remote(index, self.name)
        if self.store is None:
            return _block(_to_row(index, chunk, died))
        committed = 0 if died else chunk.items.num_rows
        return _block({"unit": index, "committed": committed, "errors": len(chunk.errors), "seconds": json.dumps(chunk.seconds), "died": died})


def limit_threads(threads: int) -> None:
    """Give this worker's numerical libraries that many threads (more than cores in all would only spin)."""
    import torch

    torch.set_num_threads(threads)


def _to_row(index: int, chunk: Chunk, died: str | None = None) -> dict[str, Any]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, chunk.items.schema) as writer:
        writer.write_table(chunk.items)
    return {
        "unit": index,
        "kind": chunk.kind,
        "items": sink.getvalue().to_pybytes(),
        "errors": json.dumps(chunk.errors),
        "seconds": json.dumps(chunk.seconds),
        "died": died or "",
        **{ARRAY + name: array for name, array in ({} if died else chunk.arrays).items()},
    }


def _block(row: Mapping[str, Any]) -> pa.Table:
    """Return a table of one row; arrays become one tensor cell, which Ray moves without copying rows."""
    from ray.data.extensions import ArrowTensorArray

    columns = {}
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            columns[name] = ArrowTensorArray.from_numpy(value[None])
        else:
            columns[name] = pa.array([value], pa.large_binary() if isinstance(value, bytes) else None)
    return pa.table(columns)


def _from_batch(batch: dict[str, np.ndarray]) -> tuple[int, Chunk, str | None]:
    items = pa.ipc.open_stream(bytes(batch["items"][0])).read_all()
    errors = {int(row): reason for row, reason in json.loads(str(batch["errors"][0])).items()}
    arrays = {name.removeprefix(ARRAY): values[0] for name, values in batch.items() if name.startswith(ARRAY)}
    chunk = Chunk(str(batch["kind"][0]), items, arrays, errors, json.loads(str(batch["seconds"][0])))
    return int(batch["unit"][0]), chunk, str(batch["died"][0]) or None


def _to_receipt(row: Mapping[str, Any]) -> Receipt:
    return Receipt(row["unit"], row["committed"], row["errors"], json.loads(row["seconds"]), row["died"] or None)


def _plain(error: BaseException) -> FgrayError:
    """Find fgray's own error inside Ray's wrapping, else say in one line what failed."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FgrayError):
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    last = [line for line in str(error).splitlines() if line.strip()]
    return RunError(f"a worker failed: {last[-1] if last else type(error).__name__}", fix="set FGRAY_DEBUG=1 to see its traceback")
