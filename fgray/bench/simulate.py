"""The driver under a simulated cluster: real planning, bookkeeping and reducing, made-up workers.

What is real: item ids, `subtract` and the cutting into units, the list of items, the loop that takes receipts and its index files, the plan
of a run that goes on, rows of samples, metric sums and intervals, the files that come of it. What is not: the rows (made by a seeded
generator), the parts (files with their real names on the local disk, but empty, save those that no index file lists; these hold ids
without values), scores (drawn), and the workers, which are events:

- a worker takes the next unit when it is free, and the driver hands out one unit at a time (`Model.dispatch`);
- a unit takes `Model.unit` seconds times a log-normal factor; a worker starts in `Model.start` seconds;
- workers die and nodes (of `Model.node_workers`) are lost at exponential times; what is in flight runs again from its start, on the next
  free worker, and a replacement takes `Model.start` or `Model.replace` seconds;
- units go out in waves, as `fgray.engine.ray_data` does it: a wave begins when the last unit of the one before is in, with new workers.

What it says nothing about: the network, the store's own limits, the products of queries with a pool of candidates, and what an evaluation
holds in the driver's memory besides: case tables, image indexes, embeddings. Each phase runs in a process of its own, whose largest
resident memory is reported. Run as ``python -m fgray.bench.simulate TASK.json``; prints one JSON object.
"""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgray.bench.side import peak_bytes
from fgray.benchmarks.base import BenchmarkInfo, LoadedBenchmark
from fgray.config.schema import StatsConfig
from fgray.data.cases import CASE_SCHEMA, CaseSet
from fgray.data.index import INDEX_SCHEMA, ImageIndex
from fgray.embedding.requests import IMAGE, TEXT_SCHEMA, requests_of
from fgray.embedding.work import Work, plan_work
from fgray.engine.part_index import PARTS
from fgray.engine.progress import Progress
from fgray.engine.run import drive
from fgray.engine.stages import Receipt, Stage
from fgray.engine.store import ResultStore, build_part
from fgray.engine.units import Unit
from fgray.evaluation.reduce import Reducer
from fgray.evaluation.samples import scored_samples
from fgray.metrics.spec import AnyMetric, Macro, Metric
from fgray.runs import ITEM_SCHEMA, SAMPLE_SCHEMA, RunFolder

FINGERPRINT = "0" * 64
SLICE = 1 << 18
SHARD_ROWS = 10_000
GIB = 2**30


@dataclass(frozen=True)
class Model:
    """A cluster as its driver sees it; times in seconds.

    Attributes:
        unit: mean time of a unit on a worker.
        start: from asking for a worker to its first unit.
        dispatch: of the driver for each unit.
        jitter: sigma of the logarithm of a unit's time.
        wave: units handed out before the next ones wait for all of them; 0: no waves.
        worker_life, node_life: mean time to the death of a worker, to the loss of a node; 0: none.
        node_workers: workers of a node.
        replace: until the workers of a lost node are there again.
    """

    unit: float
    start: float = 20.0
    dispatch: float = 0.002
    jitter: float = 0.2
    wave: int = 0
    worker_life: float = 0.0
    node_life: float = 0.0
    node_workers: int = 8
    replace: float = 180.0


@dataclass
class Simulated:
    """What became of the units.

    Attributes:
        makespan: seconds from the start to the last unit.
        order: the units, as they came in.
        at: float64, when each of those came in.
        lost: attempts that died.
    """

    makespan: float
    order: list[int]
    at: list[float]
    lost: int


def simulate(units: int, workers: int, model: Model, seed: int = 0) -> Simulated:
    """Run units on simulated workers."""
    random = np.random.default_rng(seed)
    done: list[tuple[float, int]] = []
    lost, now = 0, 0.0
    node_ends = random.exponential(model.node_life or np.inf, -(-workers // model.node_workers)) if model.node_life else None
    for first in range(0, units, model.wave or units):
        count = min(model.wave or units, units - first)
        takes = model.unit * np.exp(random.normal(-(model.jitter**2) / 2, model.jitter, count))
        free = [(now + model.start, worker) for worker in range(min(workers, count))]
        heapq.heapify(free)
        left = list(range(count - 1, -1, -1))
        driver = now
        while left:
            ready, worker = heapq.heappop(free)
            driver = max(driver + model.dispatch, ready)
            end, back = driver + takes[left[-1]], 0.0
            if model.worker_life and (death := driver + random.exponential(model.worker_life)) < end:
                end, back = death, model.start
            node = worker // model.node_workers
            if node_ends is not None:
                while node_ends[node] < driver:  # it went while it had nothing to do here
                    node_ends[node] += random.exponential(model.node_life)
                if node_ends[node] < end:
                    end, back = float(node_ends[node]), model.replace + model.start
            heapq.heappush(free, (end + back, worker))
            if back:
                lost += 1  # the unit stays the next one
            else:
                done.append((end, first + left.pop()))
        now = max(end for end, _ in done)
    done.sort()
    return Simulated(float(now), [unit for _, unit in done], [float(end) for end, _ in done], lost)


def image_slices(rows: int, seed: int, spent: list[float]) -> Iterator[pa.Table]:
    """Yield rows of ``INDEX_SCHEMA`` in the order of shards, as a packed corpus has them; the time it takes is added to `spent`."""
    random = np.random.default_rng(seed)
    for start in range(0, rows, SLICE):
        begun = time.perf_counter()
        number = np.arange(start, min(start + SLICE, rows))
        key = pc.utf8_lpad(pa.array(number).cast(pa.string()), 9, "0")
        shard = pc.binary_join_element_wise("shard-", pc.utf8_lpad(pa.array(number // SHARD_ROWS).cast(pa.string()), 6, "0"), ".tar", "")
        digest = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(number), [None, pa.py_buffer(random.bytes(32 * len(number)))])
        length = pa.array(random.integers(20_000, 200_000, len(number)))
        place = pa.array(number % SHARD_ROWS)
        table = pa.table([key, shard, place, pc.multiply(place, 200_000), length, digest], schema=INDEX_SCHEMA)
        spent[0] += time.perf_counter() - begun
        yield table


def _work(store: ResultStore, rows: int, unit_rows: int, spent: list[float]) -> Work:
    slices = (requests_of(ImageIndex("s3://bucket/corpus", table), table, FINGERPRINT, 10**8) for table in image_slices(rows, 0, spent))
    return plan_work(slices, TEXT_SCHEMA.empty_table(), store, unit_rows)


def plan_and_keep(task: dict[str, Any]) -> dict[str, float]:
    """Plan `rows` images, take in the receipts of all units, and plan again what is then done but for a last few units."""
    folder, rows = Path(task["folder"]), task["rows"]
    store, made = ResultStore(str(folder / "store"), FINGERPRINT), [0.0]
    start = time.perf_counter()
    work = _work(store, rows, task["unit_rows"], made)
    RunFolder(str(folder)).write_slices(RunFolder.ITEMS, ITEM_SCHEMA, work.item_slices())
    planned = time.perf_counter() - start - made[0]
    planned_peak = peak_bytes()

    parts = folder / "store" / FINGERPRINT / IMAGE
    parts.mkdir(parents=True)
    result = simulate(len(work.units), task["workers"], Model(**task["model"]))
    touched = [0.0]
    progress = Progress(len(work.units), work.missing, [Stage("model", _never, workers=task["workers"])])
    progress._say = lambda line: None  # type: ignore[method-assign]
    start = time.perf_counter()
    with progress:
        drive(work.units, lambda units: _receipts(units, result, store, parts, touched), store, {}, progress)
    kept = time.perf_counter() - start - touched[0]

    units = len(work.units)
    del work  # and the files that it lies in
    made[0] = 0.0
    start = time.perf_counter()
    again = _work(store, rows, task["unit_rows"], made)
    return {
        "plan_seconds": planned,
        "plan_peak": planned_peak,
        "units": units,
        "keep_seconds": kept,
        "again_seconds": time.perf_counter() - start - made[0],
        "again_missing": again.missing,
        "peak": peak_bytes(),
        "makespan": result.makespan,
        "lost": result.lost,
    }


def _never() -> Any:
    raise AssertionError("a simulated worker is not built")


def _receipts(units: Sequence[Unit], result: Simulated, store: ResultStore, folder: Path, spent: list[float]) -> Iterator[Receipt]:
    """Yield receipts in the simulated order; before each its part appears, as if a worker had written it."""
    listed = len(units) - len(units) % PARTS  # the parts after these are opened by the next plan
    for at, number in enumerate(result.order):
        unit = units[number]
        begun = time.perf_counter()
        if at < listed:
            (folder / f"part-{unit.id}.parquet").touch()
        else:
            store.commit(unit.kind, build_part(unit.items, {}, {}), {})
        spent[0] += time.perf_counter() - begun
        yield Receipt(number, unit.items.num_rows, 0, {"model": 1.0})


METRICS: list[AnyMetric] = [
    Metric("x/replace/accuracy", "replace", "i2t"),
    Metric("x/swap/accuracy", "swap", "i2t"),
    Macro("x/macro/accuracy", ("x/replace/accuracy", "x/swap/accuracy")),
]


def case_slices(rows: int, seed: int, spent: list[float]) -> Iterator[tuple[pa.Table, Any]]:
    """Yield cases of two captions each (four cases to an image) with their scores, in the order of samples.parquet."""
    random = np.random.default_rng(seed)
    for subset, first, last in (("replace", 0, rows // 2), ("swap", rows // 2, rows)):
        for start in range(first, last, SLICE):
            begun = time.perf_counter()
            number = np.arange(start, min(start + SLICE, last))
            count = len(number)
            name = pc.utf8_lpad(pa.array(number).cast(pa.string()), 9, "0")
            image = pc.utf8_lpad(pa.array(number // 4).cast(pa.string()), 9, "0")
            captions = pc.binary_join_element_wise(
                "caption ", pc.utf8_lpad(pa.array(np.arange(2 * start, 2 * start + 2 * count)).cast(pa.string()), 9, "0"), ""
            )
            columns = {
                "case_id": name,
                "subset": pa.repeat(subset, count),
                "task": pa.repeat("i2t", count),
                "cluster_id": image,
                "category": pa.nulls(count, pa.string()),
                "query_kind": pa.repeat("image", count),
                "query": image,
                "candidate_kind": pa.repeat("text", count),
                "candidates": pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * 2), captions),
                "pool": pa.nulls(count, pa.string()),
                "labels": pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32)), pa.array(np.zeros(count, np.int32))),
            }
            scores = random.normal(0.25, 0.05, (count, 2)) + np.array([0.03, 0.0])
            table = pa.table([columns[field.name] for field in CASE_SCHEMA], schema=CASE_SCHEMA)
            spent[0] += time.perf_counter() - begun
            yield table, scores


def reduce(task: dict[str, Any]) -> dict[str, Any]:
    """Make samples of `rows` scored cases, write them, and reduce them to metrics with intervals."""
    made = [0.0]
    info = BenchmarkInfo("x", "x", "", "", "", "", "wrong")
    loaded = LoadedBenchmark(info, CaseSet(CASE_SCHEMA.empty_table()), ImageIndex("", INDEX_SCHEMA.empty_table()), METRICS)
    reducer, folder = Reducer(loaded, StatsConfig()), RunFolder(task["folder"])
    there = np.arange(2)
    start = time.perf_counter()
    slices = (scored_samples("x", rows, scores, there, None) for rows, scores in case_slices(task["rows"], 0, made))
    folder.write_slices(RunFolder.SAMPLES, SAMPLE_SCHEMA, reducer.watch(slices))
    written = time.perf_counter() - start - made[0]
    reducer.check()
    entries = reducer.metrics()
    return {
        "samples_seconds": written,
        "reduce_seconds": time.perf_counter() - start - made[0],
        "peak": peak_bytes(),
        "count": sum(entries[metric.name]["count"] for metric in METRICS[:2]),
        "bytes": folder.storage.stat(RunFolder.SAMPLES).size,
    }


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"plan": plan_and_keep, "reduce": reduce}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    answer = TASKS[given["task"]](given)
    print(json.dumps({**answer, "cpu_seconds": time.process_time()}))
