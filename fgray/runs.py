"""The run folder: its files, their schemas, and the only code that reads and writes them."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fgray.config.fingerprint import fingerprint as config_fingerprint
from fgray.config.schema import Job
from fgray.errors import DataError, NotFound, RunError
from fgray.storage import RangedFile, Storage, open_storage

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("query_kind", pa.string(), nullable=False),  # image | text | region
        pa.field("query", pa.string(), nullable=False),  # image key, text, or region id
        pa.field("candidate_kind", pa.string(), nullable=False),  # image | text | prototype
        pa.field("pool", pa.string()),  # null for small candidate sets
        pa.field("shown", pa.list_(pa.int32()), nullable=False),  # candidate positions listed below: all, or the top ten of a pool
        pa.field("candidates", pa.list_(pa.string()), nullable=False),  # references of the shown candidates
        pa.field("scores", pa.list_(pa.float64())),  # their scores; null when excluded
        pa.field("labels", pa.list_(pa.int32()), nullable=False),  # positions of the right candidates
        pa.field("prediction", pa.int32()),  # position of the best score, the first of equals
        pa.field("num_candidates", pa.int32(), nullable=False),
        pa.field("num_positives", pa.int32(), nullable=False),
        pa.field("greater", pa.int32()),  # wrong candidates above the best right one
        pa.field("tied", pa.int32()),  # wrong candidates exactly equal to it
        pa.field("tied_before", pa.int32()),  # those of them that come before the first such right one
        pa.field("tied_positives", pa.int32()),  # right candidates with that same best score, at least 1
        pa.field("margin", pa.float64()),  # best right score minus best wrong score
        pa.field("excluded", pa.string()),  # why the case has no score (a quarantined image), else null
    ]
)
"""One row per case, sorted by (benchmark, subset, task, case_id).

The four counts give the rank under every tie policy: wrong: greater + tied + 1; first: greater + tied_before + 1.
"""

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # decode | model | worker
        pa.field("error", pa.string(), nullable=False),
    ]
)


ITEM_SCHEMA = pa.schema([pa.field("kind", pa.string(), nullable=False), pa.field("item_id", pa.binary(16), nullable=False)])
"""Every item that a run reads from the result store, so that `fgray store gc` knows what must stay."""


SELECTION = "selection"  # key of a training run's run.json: benchmark -> fingerprint of the data that picked its checkpoint

ROW_GROUP = 1 << 20  # rows of a row group, as pyarrow's own default
_READ_BYTES = 4 << 20

PACKAGES = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy", "pillow", "pyarrow", "ray", "scipy")


def describe_job(job: Job, source: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what run.json says of every kind of job: name, configuration as written, fingerprint, versions, platform.

    Args:
        job: the checked job.
        source: the configuration as it was written, with ``${ENV}`` unresolved; default: the job itself.
    """
    return {
        "name": job.name,
        "job": job.job,
        "created_by": f"fgray {version('fgray')}",
        "fingerprint": config_fingerprint(job),
        "config": dict(source) if source is not None else job.model_dump(mode="json"),
        "packages": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": {"system": platform.system(), "machine": platform.machine()},
    }


def refuse_other_run(folder: RunFolder, job: Job) -> None:
    """Refuse an output that holds a run of another configuration.

    Raises:
        RunError: it does.
    """
    if not folder.storage.exists(RunFolder.RUN):
        return
    if folder.read_json(RunFolder.RUN).get("fingerprint") != config_fingerprint(job):
        raise RunError(
            "this output holds a run of another configuration", where=folder.uri, fix="choose another output, or remove that folder"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _regroup(slices: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of all slices in tables of exactly `rows`, and what is left in a last one."""
    held: list[pa.Table] = []
    count = 0
    for table in slices:
        while count + table.num_rows >= rows:
            first = table.slice(0, rows - count)
            yield pa.concat_tables([*held, first])
            held, count, table = [], 0, table.slice(first.num_rows)
        held.append(table)
        count += table.num_rows
    if count:
        yield pa.concat_tables(held)


def _write_group(writer: pq.ParquetWriter, group: pa.Table) -> None:
    writer.write_table(group.combine_chunks(), ROW_GROUP)


class RunFolder:
    """Reads and writes ``run.json``, ``items.parquet``, ``metrics.json``, ``samples.parquet``, ``quarantine.parquet``, ``report.html``.

    A run whose cases ask about regions of pictures has ``regions.parquet``, too: ``benchmark`` and the columns of ``REGION_SCHEMA``.
    """

    def __init__(self, uri: str) -> None:
        self.storage: Storage = open_storage(uri)
        self.uri = self.storage.uri

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file with sorted keys, so that equal content means equal bytes."""
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.storage.write_bytes(name, text.encode() + b"\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file.

        Raises:
            NotFound: it does not exist.
            DataError: it is not a JSON object.
        """
        try:
            content = json.loads(self._read(name))
        except ValueError as error:
            raise DataError(f"not valid JSON ({error})", where=f"{self.uri}/{name}", fix="run the job again") from error
        if not isinstance(content, dict):
            raise DataError("not a JSON object", where=f"{self.uri}/{name}", fix="name a run folder, or run the job again")
        return content

    def read_run(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            NotFound: it does not exist.
            DataError: it describes no run.
        """
        content = self.read_json(self.RUN)
        if not {"name", "model"} <= set(content):
            raise DataError("this describes no run", where=f"{self.uri}/{self.RUN}", fix="name a run folder, or run the job again")
        return content

    def _read(self, name: str) -> bytes:
        try:
            return self.storage.read_bytes(name)
        except NotFound as error:
            fix = "name a run folder; a run that has not finished goes on when its job is submitted again"
            raise NotFound(error.what, where=error.where, fix=fix) from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file; equal tables give equal bytes."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.storage.write_bytes(name, sink.getvalue().to_pybytes())

    def write_slices(self, name: str, schema: pa.Schema, slices: Iterable[pa.Table]) -> None:
        """Write a Parquet file slice by slice; the bytes are those that `write_table` gives the whole table in one chunk.

        One row group is compressed while the next one is made.
        """
        with (
            self.storage.writing(name) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
            ThreadPoolExecutor(1) as thread,
        ):
            writing: Future[None] | None = None
            for group in _regroup(slices, ROW_GROUP):
                if writing is not None:
                    writing.result()
                writing = thread.submit(_write_group, writer, group)
            if writing is not None:
                writing.result()

    def read_slices(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield a Parquet file's rows in order, some ten thousand at a time.

        Raises:
            NotFound: it does not exist.
            DataError: it is damaged.
        """
        if not self.storage.exists(name):
            self._read(name)  # says what to do
        try:
            file = pq.ParquetFile(io.BufferedReader(RangedFile(self.storage, name), _READ_BYTES))
            for batch in file.iter_batches(1 << 16, columns=columns, use_threads=False):
                yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            raise DataError(f"not a readable Parquet file ({error})", where=f"{self.uri}/{name}", fix="run the job again") from error

    def read_table(self, name: str) -> pa.Table:
        """Read a Parquet file.

        Raises:
            NotFound: it does not exist.
            DataError: it is damaged.
        """
        try:
            return pq.read_table(pa.BufferReader(self._read(name)))
        except pa.ArrowInvalid as error:
            raise DataError(f"not a readable Parquet file ({error})", where=f"{self.uri}/{name}", fix="run the job again") from error

    def regions(self) -> pa.Table | None:
        """Return the regions of pictures that the run's cases ask about, or None where they ask about none.

        Raises:
            DataError: the file is damaged.
        """
        return self.read_table(self.REGIONS) if self.storage.exists(self.REGIONS) else None

    # The names, once.
    RUN = "run.json"
    ITEMS = "items.parquet"
    METRICS = "metrics.json"
    SAMPLES = "samples.parquet"
    QUARANTINE = "quarantine.parquet"
    REGIONS = "regions.parquet"
    REPORT = "report.html"
    LOG = "log.jsonl"
    STARTS = "starts.jsonl"
