"""Approximate search with faiss behind the interface of the exact one: what it finds is scored exactly, what it misses is measured.

The index is built once, by the driver, and kept in the result store; the names of the results contain its hash and the options.
"""

from __future__ import annotations

import hashlib
from functools import partial
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgray.engine.stages import Arrays, Chunk
from fgray.errors import ConfigError, DataError, did_you_mean
from fgray.mining.resident import BlockReader, ResidentRange
from fgray.mining.search import Neighbours, Plan, Workers, search, search_name
from fgray.mining.topk import score_exactly
from fgray.mining.vectors import VectorSet
from fgray.storage import open_storage

UNIT_ROWS = 1024
TRAINING_ROWS = 64  # per list of an inverted file; faiss warns below 39
INDEX = "index.faiss"


class FaissOptions(BaseModel):
    """Options of the approximate index (``search.options``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ivf", "hnsw"] = Field("ivf", description="ivf: inverted lists around centroids; hnsw: a graph of neighbours")
    lists: int | None = Field(None, ge=1, description="ivf: number of lists; default 4 times the square root of the corpus rows")
    probes: int = Field(32, ge=1, description="ivf: lists that a query looks into")
    links: int = Field(32, ge=2, description="hnsw: neighbours of a node")
    construction: int = Field(128, ge=1, description="hnsw: candidates while the graph is built")
    effort: int = Field(256, ge=1, description="hnsw: candidates of a query, at least k")


def plan_approximate(
    queries: VectorSet,
    corpus: VectorSet,
    k: int,
    rows: npt.NDArray[np.int64],
    store_uri: str,
    compute: Workers,
    memory_gib: float,
    options: dict[str, Any],
) -> tuple[Plan, partial[Any]]:
    """Build or find the index, and return the plan of the search and how a worker is built.

    Raises:
        ConfigError: faiss is not installed, an option is unknown or wrong, or index and corpus do not fit into the memory.
    """
    chosen = _options(options)
    faiss = _faiss()
    graph = 8 * chosen.links if chosen.kind == "hnsw" else 8
    need = (corpus.rows * (4 * corpus.dim + graph) + corpus.bytes_of(corpus.rows)) / 2**30
    if need > memory_gib:
        raise ConfigError(f"index and corpus need {need:.2f} GiB", where="search.memory_gib", fix="raise it, or say index: exact")
    built_with = corpus.fingerprint + chosen.model_dump_json(exclude={"probes", "effort"})
    place = f"{store_uri}/faiss-{hashlib.sha256(built_with.encode()).hexdigest()[:32]}"
    storage = open_storage(place)
    if not storage.exists(INDEX):
        faiss.omp_set_num_threads(compute.workers * compute.threads)
        storage.write_bytes(INDEX, memoryview(faiss.serialize_index(_build_index(faiss, corpus, chosen))))
    digest = hashlib.sha256(storage.read_bytes(INDEX)).hexdigest()
    name = search_name(queries, corpus, k, index=digest, options=chosen.model_dump())
    plan = Plan(queries, corpus, k, rows, ((0, corpus.rows),), UNIT_ROWS, name)
    return plan, partial(_Approximate, plan, place, compute.threads, chosen)


def recall_at_k(approximate: npt.NDArray[np.int64], exact: npt.NDArray[np.int64]) -> float:
    """Return the mean share of a query's exact neighbours [n, k] that the approximate ones [n, k] contain; -1 counts nowhere."""
    shares = [np.isin(right[right >= 0], found).mean() for found, right in zip(approximate, exact, strict=True) if (right >= 0).any()]
    return float(np.mean(shares))


def recall_on_sample(neighbours: Neighbours, compute: Workers, memory_gib: float = 1.0, sample: int = 1000, seed: int = 0) -> float:
    """Return the recall@k of approximate neighbours against exact search, on queries drawn at random without replacement."""
    plan = neighbours.plan
    chosen = np.sort(np.random.default_rng(seed).choice(len(plan.rows), min(sample, len(plan.rows)), replace=False))
    exact = search(plan.queries, plan.corpus, plan.k, neighbours.store.uri, compute, memory_gib, rows=plan.rows[chosen])
    found = [rows[chosen[(chosen >= first) & (chosen < first + len(rows))] - first] for first, rows, _ in neighbours.blocks()]
    return recall_at_k(np.concatenate(found), np.concatenate([rows for _, rows, _ in exact.blocks()]))


class _Approximate:
    """The stage: what the index finds for a unit's queries, scored exactly."""

    def __init__(self, plan: Plan, place: str, threads: int, options: FaissOptions) -> None:
        self.plan, self.faiss, self.threads = plan, _faiss(), threads
        self.index = _read_index(self.faiss, place)
        if options.kind == "ivf":
            self.index.nprobe = options.probes
        else:
            self.index.hnsw.efSearch = max(options.effort, plan.k)
        self.queries = BlockReader(plan.queries)
        self.corpus = ResidentRange(plan.corpus, plan.corpus.rows, "cpu")

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return ``rows`` int64 [n, k] and ``scores`` float64 [n, k]."""
        self.faiss.omp_set_num_threads(self.threads)
        queries = self.queries.take(chunk.items["row"].to_numpy())
        corpus, ready = self.corpus.open(0, self.plan.corpus.rows)
        for _ in ready:  # until every row is there
            pass
        wanted, shape = min(self.plan.k, self.plan.corpus.rows), (len(queries), self.plan.k)
        _, places = self.index.search(queries.float().numpy(), wanted)
        rows, scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf)
        rows[:, :wanted], scores[:, :wanted] = score_exactly(queries, corpus.vectors, np.arange(len(queries)), places, wanted)
        return {"rows": rows, "scores": scores}


def _build_index(faiss: ModuleType, corpus: VectorSet, options: FaissOptions) -> Any:
    if options.kind == "hnsw":
        index = faiss.IndexHNSWFlat(corpus.dim, options.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = options.construction
    else:
        lists = min(options.lists or int(4 * corpus.rows**0.5), corpus.rows)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(corpus.dim), corpus.dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # a small corpus is no reason to warn on stderr
        share = min(1.0, TRAINING_ROWS * lists / corpus.rows)
        rng = np.random.default_rng(0)
        blocks = (corpus.block(number) for number in range(len(corpus.blocks)))
        index.train(np.concatenate([rng.permutation(block)[: max(1, int(share * len(block)))] for block in blocks]))
    for number in range(len(corpus.blocks)):
        index.add(corpus.block(number))
    return index


def _read_index(faiss: ModuleType, place: str) -> Any:
    storage = open_storage(place)
    try:
        return faiss.deserialize_index(np.frombuffer(storage.read_bytes(INDEX), np.uint8))
    except RuntimeError as error:  # faiss has no other
        fix = "delete the file and run the same command again"
        raise DataError("damaged index", where=storage.address(INDEX), fix=fix) from error


def _options(options: dict[str, Any]) -> FaissOptions:
    for name in options:
        if name not in FaissOptions.model_fields:
            raise ConfigError(
                f"the faiss index has no option '{name}'", where="search.options", fix=did_you_mean(name, FaissOptions.model_fields)
            )
    try:
        return FaissOptions(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ConfigError(
            f"option '{name}': {first['msg']}", where="search.options", fix=str(FaissOptions.model_fields[name].description)
        ) from error


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("faiss is not installed", where="search.index", fix="pip install 'fgray[faiss]', or say index: exact") from error
    module: ModuleType = faiss
    return module
