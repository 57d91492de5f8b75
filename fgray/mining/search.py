"""Nearest neighbours of every query in a corpus of any size: units of the engine, merged exactly.

A unit is a block of queries against one range of the corpus. A range is as much as a worker may hold; it stays there from unit to unit, and
units come range by range, so each worker reads the corpus once. Every score is exact (see `fgray.mining.topk`), so the merge over
ranges is exact too, and the result depends neither on how the work was cut nor on who did it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.stages import Arrays, Chunk, Stage, StageFunction
from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE, Unit, item_id
from fgray.errors import ConfigError, DataError, RunError
from fgray.mining.parallel import top_k_threads
from fgray.mining.resident import BlockReader, ResidentRange
from fgray.mining.topk import Found, fixed_bytes, row_bytes
from fgray.mining.vectors import VectorSet

KIND = "topk"
# Multiply-adds of a unit: about two seconds of one CPU core, a tenth of a second of a GPU.
UNIT_PRODUCTS = {"cpu": 1.5e11, "cuda": 2.5e13}
UNIT_ROWS = {"cpu": 4096, "cuda": 65_536}  # more queries do not make the products faster
MIN_ROWS = 64


class Workers(Protocol):
    """Who searches; `fgray.embedding.Compute` is one."""

    @property
    def runner(self) -> Literal["ray", "serial"]:
        """Return how units run."""
        ...

    @property
    def device(self) -> str:
        """Return where the products are made."""
        ...

    @property
    def workers(self) -> int:
        """Return the number of workers."""
        ...

    @property
    def threads(self) -> int:
        """Return the threads of a worker on a CPU."""
        ...


@dataclass(frozen=True)
class Plan:
    """How a search is cut.

    Attributes:
        queries, corpus: what is searched for whom.
        k: neighbours per query.
        rows: the query rows that are asked for, ascending.
        ranges: (start, stop) of corpus rows, in order.
        unit_rows: queries of a unit.
        name: what is searched how, as a hash; results of different searches are stored apart.
    """

    queries: VectorSet
    corpus: VectorSet
    k: int
    rows: npt.NDArray[np.int64]
    ranges: tuple[tuple[int, int], ...]
    unit_rows: int
    name: str

    def items(self) -> pa.Table:
        """Return the items, unit after unit: by block of queries, then by range; columns item_id, row, start, stop."""
        columns: dict[str, list[Any]] = {"item_id": [], "row": [], "start": [], "stop": []}
        for first in range(0, len(self.rows), self.unit_rows):
            block = self.rows[first : first + self.unit_rows]
            for start, stop in self.ranges:
                columns["item_id"].append(pa.array([item_id(KIND, self.name, f"{row} {start} {stop}".encode()) for row in block], ID_TYPE))
                for name, values in (("row", block), ("start", np.full_like(block, start)), ("stop", np.full_like(block, stop))):
                    columns[name].append(pa.array(values))
        return pa.table({name: pa.chunked_array(parts) for name, parts in columns.items()}).combine_chunks()

    def units(self, items: pa.Table, stored: pa.Array) -> list[Unit]:
        """Return the units of what is not stored, range by range, so that workers keep a range as long as it is needed."""
        missing = pc.invert(pc.is_in(items["item_id"], value_set=stored)).combine_chunks()
        units = []
        for start, _ in self.ranges:
            at = 0
            for first in range(0, len(self.rows), self.unit_rows):
                length = min(self.unit_rows, len(self.rows) - first)
                for other, _ in self.ranges:
                    if other == start:
                        rest = items.slice(at, length).filter(missing.slice(at, length))
                        units += [Unit(KIND, rest)] if rest.num_rows else []
                    at += length
        return units


@dataclass(frozen=True)
class Neighbours:
    """The answer of a search, in the result store.

    Attributes:
        plan: what was asked.
        store: where the units' results lie.
        progress: how the computation went.
    """

    plan: Plan
    store: ResultStore
    progress: Progress

    @property
    def k(self) -> int:
        """Return the number of neighbours per query."""
        return self.plan.k

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """Yield (first, rows int64 [n, k], scores float64 [n, k]) of consecutive queries, in query order.

        Neighbours stand by (score descending, corpus row ascending); row -1 and score -inf fill up where the corpus has fewer than k.
        `first` counts the queries that were asked for. One block is in memory.

        Raises:
            RunError: results were removed meanwhile, or a query could not be searched.
        """
        ids = self.plan.items()["item_id"].combine_chunks()
        ranges, first = len(self.plan.ranges), 0
        for results in self.store.stream(KIND, ids, self.plan.unit_rows * ranges):
            failed = next((error for error in results.errors if error is not None), None)
            if failed is not None:
                raise RunError(f"a query could not be searched ({failed})", where=self.store.uri, fix="lower search.memory_gib")
            rows, scores = (results.columns[name].reshape(ranges, -1, self.k) for name in ("rows", "scores"))
            yield first, *merge(rows, scores)
            first += rows.shape[1]


def search(
    queries: VectorSet,
    corpus: VectorSet,
    k: int,
    store_uri: str,
    compute: Workers,
    memory_gib: float = 1.0,
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
    index: Literal["exact", "faiss"] = "exact",
    options: Mapping[str, Any] | None = None,
) -> Neighbours:
    """Find the k corpus rows with the largest dot products for every query; what the store already has is not computed again.

    Args:
        queries: stored vectors.
        corpus: stored vectors of the same length; may be the same set.
        k: neighbours per query; more than the corpus has are filled up.
        store_uri: result store.
        compute: runner, device, workers and threads.
        memory_gib: of one worker for vectors, tiles and candidates, beside the libraries' own (about 0.3 GiB).
        rows: query rows to ask for, ascending; by default all.
        index: "exact", or "faiss" for an approximate index (see `fgray.mining.approximate`).
        options: of the approximate index.

    Raises:
        DataError: the vectors differ in length, or a block is damaged.
        ConfigError: the memory is too small for one range, or faiss is wanted and not installed.
        FgrayError: what the storage or a worker raised.
    """
    if queries.dim != corpus.dim:
        what = f"queries have {queries.dim} numbers and the corpus has {corpus.dim}"
        raise DataError(what, where=f"{queries.uri}, {corpus.uri}", fix="embed both with one model")
    asked = np.arange(queries.rows) if rows is None else np.asarray(rows, np.int64)
    if index == "faiss":
        from fgray.mining.approximate import plan_approximate

        plan, build = plan_approximate(queries, corpus, k, asked, store_uri, compute, memory_gib, dict(options or {}))
    else:
        plan = plan_search(queries, corpus, k, asked, memory_gib, compute.device, compute.threads)
        build = partial(_build, plan, compute.device)
    return run_search(plan, build, store_uri, compute)


def run_search(plan: Plan, build: Any, store_uri: str, compute: Workers) -> Neighbours:
    """Run what the store lacks of a plan."""
    store = ResultStore(store_uri, plan.name)
    items = plan.items()
    units = plan.units(items, store.stored_ids(KIND))
    gpus = 1 if compute.device.startswith("cuda") else 0
    stages = [Stage("search", build, workers=compute.workers, cpus=compute.threads, gpus=gpus, threads=compute.threads)]
    missing = sum(unit.items.num_rows for unit in units)
    progress = Progress(len(units), missing, stages, stored=items.num_rows - missing, task="searching")
    with progress:
        run_units(units, stages, store, {}, compute.runner, progress)  # exact scores belong to no numerics class
    return Neighbours(plan, store, progress)


def plan_search(
    queries: VectorSet, corpus: VectorSet, k: int, rows: npt.NDArray[np.int64], memory_gib: float, device: str = "cpu", threads: int = 1
) -> Plan:
    """Cut an exact search so that a worker stays within its memory.

    Raises:
        ConfigError: not even one block of the corpus fits.
    """
    kind = device.partition(":")[0]
    budget = memory_gib * 2**30
    most = min(UNIT_ROWS[kind], int(budget / 8 / row_bytes(corpus.dim, k)))
    fewest = UNIT_PRODUCTS[kind] / corpus.dim
    reading = 2 * (corpus.bytes_of(min(corpus.block_rows, corpus.rows)) + queries.bytes_of(min(queries.block_rows, queries.rows)))
    overhead = reading + threads * fixed_bytes(corpus.dim, k) + row_bytes(corpus.dim, k) * max(most, MIN_ROWS)
    blocks = int((budget - overhead) / corpus.bytes_of(corpus.block_rows))
    if blocks < 1 and budget - overhead < corpus.bytes_of(corpus.rows):
        need = (overhead + corpus.bytes_of(min(corpus.block_rows, corpus.rows))) / 2**30
        raise ConfigError(f"a search worker needs {need:.2f} GiB", where="search.memory_gib", fix="raise it, or lower search.k")
    total = -(-corpus.rows // corpus.block_rows)
    count = -(-total // max(blocks, 1))
    width = -(-total // count) * corpus.block_rows
    ranges = tuple((start, min(start + width, corpus.rows)) for start in range(0, corpus.rows, width))
    unit_rows = int(np.clip(fewest / min(width, corpus.rows), MIN_ROWS, max(most, MIN_ROWS)))
    return Plan(queries, corpus, k, rows, ranges, unit_rows, search_name(queries, corpus, k))


def search_name(queries: VectorSet, corpus: VectorSet, k: int, **more: Any) -> str:
    """Return the hash that names a search's results."""
    facts = {"format": "fgray topk 1", "queries": queries.fingerprint, "corpus": corpus.fingerprint, "k": k, **more}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def merge(rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> Found:
    """Merge the ordered answers of consecutive ranges, [R, n, k] each, into one of [n, k]."""
    if len(rows) == 1:
        return rows[0], scores[0]
    flat_rows, flat = (np.concatenate(list(parts), axis=1) for parts in (rows, scores))
    # Stable, and ranges come in the order of their rows: equal scores stay in the order of rows.
    order = np.argsort(-flat, axis=1, kind="stable")[:, : rows.shape[2]]
    return np.take_along_axis(flat_rows, order, 1), np.take_along_axis(flat, order, 1)


class _Search:
    """The stage: top-k of a unit's queries in its range."""

    def __init__(self, plan: Plan, device: str) -> None:
        self.plan, self.device = plan, device
        self.queries = BlockReader(plan.queries)
        self.range = ResidentRange(plan.corpus, max(stop - start for start, stop in plan.ranges), device)

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``rows`` int64 [n, k] and ``scores`` float64 [n, k]."""
        start, stop = chunk.items["start"][0].as_py(), chunk.items["stop"][0].as_py()
        queries = self.queries.take(chunk.items["row"].to_numpy()).to(self.device)
        corpus, ready = self.range.open(start, stop)
        rows, scores = top_k_threads(queries, corpus, self.plan.k, ready)
        rows[rows >= 0] += start
        return {"rows": rows, "scores": scores}


def _build(plan: Plan, device: str) -> StageFunction:
    return _Search(plan, device)
