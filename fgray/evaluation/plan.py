"""What an evaluation will do: its benchmarks, its distinct items, what is stored already, the units that are left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
from rich.table import Table

from fgray.benchmarks.base import LoadedBenchmark, open_benchmark
from fgray.config.schema import EvalJob, PrecomputedModel
from fgray.embedding import (
    Compute,
    Work,
    check_requests,
    image_request_slices,
    plan_work,
    region_requests,
    resolve_compute,
    text_request_slices,
)
from fgray.engine.store import ResultStore
from fgray.errors import ConfigError, did_you_mean
from fgray.models import open_model
from fgray.models.base import ModelSource
from fgray.runs import RunFolder


@dataclass(frozen=True)
class Plan:
    """An evaluation of an embedding model, ready to run.

    Attributes:
        job: its configuration.
        benchmarks: name -> loaded benchmark (already limited).
        source: the model.
        compute: resolved workers and batches.
        store: where results go.
        work: what is asked and what is missing.
    """

    job: EvalJob
    benchmarks: dict[str, LoadedBenchmark]
    source: ModelSource
    compute: Compute
    store: ResultStore
    work: Work

    def table(self) -> Table:
        """Return the plan as a table for the console."""
        table = Table(title=f"plan of {self.job.name}", show_header=False)
        for name, loaded in self.benchmarks.items():
            counts = f"{loaded.cases.table.num_rows:,} cases, {len(loaded.cases.pictures()):,} images"
            table.add_row(name, f"{loaded.title or loaded.info.title}: {counts}{'' if loaded.official else ' (not the official release)'}")
        table.add_row("model", f"{self.source.card.name} ({self.source.card.architecture}), fingerprint {self.source.fingerprint()[:12]}")
        kinds = [(self.work.images, "images"), (self.work.texts, "texts"), (self.work.regions, "regions")]
        counts = ", ".join(f"{items.num_rows:,} {name}" for items, name in kinds if items.num_rows)
        table.add_row("items", f"{self.work.requested:,} distinct ({counts})")
        table.add_row("stored", f"{self.work.requested - self.work.missing:,} already computed")
        rows = f"{self.work.missing:,} items in {len(self.work.units)} units of up to {self.compute.unit_rows}"
        table.add_row("to do", rows)
        compute = self.compute
        pools = f"{compute.decode_workers} decode, {compute.workers} model on {compute.device}, batch {compute.batch_size}"
        table.add_row("workers", f"{compute.runner}: {pools}")
        table.add_row("output", self.job.output)
        return table


def plan_evaluation(job: EvalJob) -> Plan:
    """Load the benchmarks, describe the model and subtract what the store has.

    Raises:
        FgrayError: whatever is wrong with configuration, data, model or storage; by then the store may hold an image index
            and composed images, the output nothing else.
    """
    if isinstance(job.model, PrecomputedModel):
        raise ConfigError("a precomputed model has nothing to plan", where="model.kind", fix="run it with fgray submit")
    source = open_model(job.model)
    benchmarks = load_benchmarks(job)
    store = ResultStore(job.store_uri, source.fingerprint())
    compute = resolve_compute(job.compute, source, _previous_compute(job))
    fingerprint = source.fingerprint()
    limit = job.data.max_pixels
    all_loaded = benchmarks.values()
    images = chain.from_iterable(image_request_slices(one.images, one.cases.references("image"), fingerprint, limit) for one in all_loaded)
    texts = chain.from_iterable(text_request_slices(one.cases.references("text"), fingerprint) for one in all_loaded)
    regions = []
    for loaded in benchmarks.values():
        named = loaded.cases.named_regions()
        check_requests(named, source)
        regions.append(region_requests(loaded.images, named, fingerprint, limit))
    work = plan_work(images, texts, store, compute.unit_rows, pa.concat_tables(regions), source.card.image_size)
    return Plan(job, benchmarks, source, compute, store, work)


def _previous_compute(job: EvalJob) -> Mapping[str, Any] | None:
    folder = RunFolder(job.output)
    if not folder.storage.exists(RunFolder.RUN):
        return None
    compute: Mapping[str, Any] | None = folder.read_json(RunFolder.RUN).get("compute")
    return compute


def load_benchmarks(job: EvalJob) -> dict[str, LoadedBenchmark]:
    """Load every benchmark of the job, limited where the job says so.

    Raises:
        ConfigError: unknown benchmark or option, one benchmark twice, or a primary metric that none of them has.
        DataError: what the benchmark finds wrong with its data.
    """
    loaded: dict[str, LoadedBenchmark] = {}
    for config in job.benchmarks:
        one = open_benchmark(config, job.data.root, job.store_uri)
        if job.limit is not None:
            one.cases, one.official = one.cases.limited(job.limit), False
            one.notes.append(f"limited to the first {job.limit} cases of each subset and direction")
        name = one.info.name
        if name in loaded:
            raise ConfigError(
                f"benchmark '{name}' stands twice in the list", where="benchmarks", fix="remove one, or give them different names"
            )
        loaded[name] = one
    known = [metric.name for one in loaded.values() for metric in one.metrics]
    for name in job.primary:
        if name not in known:
            raise ConfigError(f"no metric of this run is called '{name}'", where="primary", fix=did_you_mean(name, known))
    return loaded


def data_fingerprint(loaded: LoadedBenchmark) -> str:
    """Return the hash of what is asked: every case in order of its id, and the content of every image it names."""
    digest = hashlib.sha256()
    for text in _content(loaded):
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return digest.hexdigest()


def images_fingerprint(loaded: LoadedBenchmark) -> str:
    """Return the hash of the images alone: their keys and contents, wherever and however they are stored."""
    return hashlib.sha256(b"".join(_images(loaded))).hexdigest()


def _content(loaded: LoadedBenchmark) -> Iterator[bytes]:
    for row in loaded.cases.table.sort_by("case_id").to_pylist():
        yield repr(sorted(row.items())).encode()
    for row in loaded.cases.named_regions().sort_by("region_id").to_pylist():
        yield repr(sorted(row.items())).encode()
    for groups in (loaded.cases.pools, loaded.cases.prototypes):
        for name in sorted(groups):
            yield repr((name, groups[name])).encode()
    yield from _images(loaded)


def _images(loaded: LoadedBenchmark) -> Iterator[bytes]:
    rows = loaded.images.locate(loaded.cases.pictures())
    for key, sha in sorted(zip(rows["key"].to_pylist(), rows["sha256"].to_pylist(), strict=True)):
        yield key.encode() + sha
