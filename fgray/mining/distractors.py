"""The distractors job: wrong options for multiple-choice questions about the images of a zero-shot benchmark, as FOCI mines them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from fgray.benchmarks.base import LoadedBenchmark, open_benchmark
from fgray.config.schema import DistractorsJob, PrecomputedModel
from fgray.data.index import image_key
from fgray.embedding import IMAGE, Embedded, Work, embed, image_requests, plan_work, resolve_compute, text_requests
from fgray.embedding.compute import joint_numerics
from fgray.engine.lease import open_run
from fgray.engine.store import ResultStore
from fgray.errors import ConfigError, RunError
from fgray.mining.foci import check_foci, to_json
from fgray.mining.options import Options, choose_options
from fgray.models import open_model
from fgray.report.distractors import TABLE_FILE, write_distractors_report
from fgray.runs import QUARANTINE_SCHEMA, RunFolder, describe_job

FOCI_FILE = "distractors.json"
TABLE_SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # key of the image index
        pa.field("file", pa.string(), nullable=False),  # as FOCI's file names it
        pa.field("label", pa.string(), nullable=False),
        pa.field("label_score", pa.float64(), nullable=False),  # cosine
        pa.field("label_rank", pa.int32(), nullable=False),  # among all labels, from 1
        pa.field("options", pa.list_(pa.string()), nullable=False),  # the wrong ones, the most similar last
        pa.field("scores", pa.list_(pa.float64()), nullable=False),  # their cosines
    ]
)
"""One row per question, in the order of the benchmark's images."""


@dataclass(frozen=True)
class DistractorsResult:
    """A finished run.

    Attributes:
        uri: its run folder.
        report: address of report.html.
        metrics: the content of metrics.json.
    """

    uri: str
    report: str
    metrics: dict[str, Any]

    def table(self) -> Table:
        """Return what was written, and how well the encoder itself answers, for the console."""
        count, right = self.metrics["questions"], self.metrics["right_label"]
        table = Table(title=f"questions in {self.uri}/{FOCI_FILE}", title_justify="left", show_header=False)
        table.add_row("questions", f"{count:,} with {self.metrics['options']} options")
        table.add_row("right label most similar", f"{right['first']:,} ({right['first'] / count:.1%})")
        table.add_row(
            f"right label among the first {self.metrics['options']}",
            f"{right['among_the_first']:,} ({right['among_the_first'] / count:.1%})",
        )
        return table


@dataclass(frozen=True)
class Classes:
    """The images of a benchmark with their right labels.

    Attributes:
        loaded: the benchmark.
        names: distinct labels, in class order.
        images: keys.
        truth: number of each image's right label.
    """

    loaded: LoadedBenchmark
    names: list[str]
    images: list[str]
    truth: list[int]

    def fingerprint(self) -> str:
        """Return the hash of what is asked: labels, and every image's content with its right label."""
        digest = hashlib.sha256(json.dumps(self.names).encode())
        contents = self.loaded.images.locate(self.images)["sha256"].to_pylist()
        for row in sorted(zip(self.images, contents, self.truth, strict=True)):
            digest.update(repr(row).encode())
        return digest.hexdigest()


def mine_distractors(job: DistractorsJob, source: Mapping[str, Any] | None = None) -> DistractorsResult:
    """Mine the options of every image, or finish a run that was interrupted: what the store holds is not computed again.

    The run folder gets ``distractors.json`` (FOCI's format), ``distractors.parquet`` (with scores), ``metrics.json`` with the
    confusions (label -> wrong label -> how many of the label's questions offer it), and the report.

    Args:
        job: the configuration.
        source: the configuration as it was written, with ``${ENV}`` unresolved, for run.json; default: the job itself.

    Raises:
        ConfigError: the benchmark has no classes, or too few of them; the template has no place for the label.
        RunError: another run holds the output, it belongs to another configuration, or too many items are corrupt.
        FgrayError: whatever else is wrong with data, model or storage.
    """
    if isinstance(job.model, PrecomputedModel):
        raise ConfigError("distractors need a dual encoder", where="model.kind", fix="name a model that embeds images and texts")
    if "{label}" not in job.template:
        raise ConfigError("the template has no place for the label", where="template", fix="write {label} where it belongs")
    with open_run(job) as folder:
        return _run(job, folder, source)


def _run(job: DistractorsJob, folder: RunFolder, source: Mapping[str, Any] | None) -> DistractorsResult:
    classes = load_classes(job)
    model = open_model(job.model)
    fingerprint = model.fingerprint()
    store = ResultStore(job.store_uri, fingerprint)
    previous = folder.read_json(folder.RUN).get("compute") if folder.storage.exists(folder.RUN) else None
    compute = resolve_compute(job.compute, model, previous)
    images = image_requests(classes.loaded.images, classes.images, fingerprint, job.data.max_pixels)
    texts = text_requests([job.template.replace("{label}", name) for name in classes.names], fingerprint)
    work = plan_work(images, texts, store, compute.unit_rows)
    run = {
        **describe_job(job, source),
        "model": {"card": model.card.to_dict(), "fingerprint": fingerprint},
        "compute": asdict(compute),
        "numerics": compute.numerics(model),
        "classes": {
            "title": classes.loaded.title or classes.loaded.info.title,
            "licence": classes.loaded.info.licence,
            "labels": len(classes.names),
            "images": len(classes.images),
            "template": job.template,
            "options": job.options,
            "notes": list(classes.loaded.notes),
        },
    }
    folder.write_json(folder.RUN, run)
    folder.write_table(folder.ITEMS, work.items())
    embedded, _ = embed(work, model, store, compute, job.data.max_pixels)
    run["numerics"] = joint_numerics(run["numerics"], store.numerics(IMAGE))

    rows = np.array([embedded.image_rows[id_] for id_ in images["item_id"].to_pylist()])
    errors = [embedded.images.errors[row] for row in rows]
    quarantine = _quarantine(job, images, errors)
    folder.write_table(folder.QUARANTINE, quarantine)
    _account(job, work, quarantine.num_rows, embedded, folder.uri)
    good = np.array([error is None for error in errors], bool)
    truth = np.array(classes.truth)[good]
    prompts = embedded.texts.values[[embedded.text_rows[id_] for id_ in texts["item_id"].to_pylist()]]
    options = choose_options(embedded.images.values[rows[good]], prompts, truth, job.options - 1)
    table = _table(images.filter(pa.array(good)), classes.names, truth.tolist(), options)
    questions = foci_rows(table, classes.names)
    check_foci(questions, f"{folder.uri}/{FOCI_FILE}", job.options)
    folder.storage.write_bytes(FOCI_FILE, to_json(questions))
    folder.write_table(TABLE_FILE, table)
    fingerprints = {"config": run["fingerprint"], "model": fingerprint, "data": classes.fingerprint()}
    metrics = {"fingerprints": fingerprints, **measure(table, job.options)}
    run["items"] = {"requested": work.requested, "quarantined": quarantine.num_rows}
    folder.write_json(folder.RUN, run)
    folder.write_json(folder.METRICS, metrics)
    return DistractorsResult(folder.uri, _report(folder, classes), metrics)


def report_again(folder: RunFolder, job: DistractorsJob) -> str:
    """Write a finished run's report from its files and return its address."""
    return _report(folder, load_classes(job))


def _report(folder: RunFolder, classes: Classes) -> str:
    index = classes.loaded.images
    return write_distractors_report(folder, lambda key: index.read(index.locate([key]))[0])


def load_classes(job: DistractorsJob) -> Classes:
    """Read images and labels. Classes of one name are one label: a question that offers a name twice has no answer.

    Raises:
        ConfigError: the benchmark is no zero-shot classification, or has fewer labels than a question has options.
        DataError: what the benchmark finds wrong with its data.
    """
    loaded = open_benchmark(job.classes, job.data.root, job.store_uri)
    if job.limit is not None:
        loaded.cases = loaded.cases.limited(job.limit)
        loaded.notes.append(f"limited to the first {job.limit} images")
    cases = loaded.cases.table
    if pc.unique(cases["candidate_kind"]).to_pylist() != ["prototype"] or len(loaded.cases.pools) != 1:
        raise ConfigError(f"{job.classes.name} has no class names", where="classes", fix="name a zero_shot benchmark")
    (pool,) = loaded.cases.pools.values()
    names = list(dict.fromkeys(pool))
    if len(names) < job.options:
        what = f"{len(names)} labels for {job.options} options"
        raise ConfigError(what, where="options", fix="ask for fewer options, or give more classes")
    numbers = {name: number for number, name in enumerate(names)}
    truth = [numbers[pool[labels[0]]] for labels in cases["labels"].to_pylist()]
    return Classes(loaded, names, cases["query"].to_pylist(), truth)


def foci_rows(table: pa.Table, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return label -> questions, as FOCI's file holds them; labels without images are left out."""
    questions: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row in table.to_pylist():
        options = [row["label"], *row["options"]]
        questions[row["label"]].append({"image": row["file"], "options": options, "groundtruth": row["label"]})
    return {name: rows for name, rows in questions.items() if rows}


def measure(table: pa.Table, options: int) -> dict[str, Any]:
    """Return counts for metrics.json: how well the encoder itself knows the right label, and which labels it confuses."""
    ranks = np.asarray(table["label_rank"])
    confusions: dict[str, Counter[str]] = {}
    for label, wrong in zip(table["label"].to_pylist(), table["options"].to_pylist(), strict=True):
        confusions.setdefault(label, Counter()).update(wrong)
    return {
        "questions": table.num_rows,
        "options": options,
        "right_label": {"first": int((ranks == 1).sum()), "among_the_first": int((ranks <= options).sum())},
        "confusions": {label: dict(counts) for label, counts in confusions.items()},
    }


def _table(images: pa.Table, names: Sequence[str], truth: Sequence[int], options: Options) -> pa.Table:
    keys = images["key"].to_pylist()
    # A plain image file is a shard of its own; in a packed folder an image has no file name but its key.
    files = [shard if image_key(shard) == key else key for key, shard in zip(keys, images["shard"].to_pylist(), strict=True)]
    columns = [
        keys,
        files,
        [names[number] for number in truth],
        options.truth_score,
        options.truth_rank.astype(np.int32),
        [[names[number] for number in row] for row in options.wrong],
        list(options.scores),
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, TABLE_SCHEMA, strict=True)], schema=TABLE_SCHEMA)


def _quarantine(job: DistractorsJob, images: pa.Table, errors: Sequence[str | None]) -> pa.Table:
    rows = []
    for key, shard, error in zip(images["key"].to_pylist(), images["shard"].to_pylist(), errors, strict=True):
        if error is not None:
            stage, _, reason = error.partition(": ")
            rows.append({"benchmark": job.classes.name, "key": key, "shard": shard, "stage": stage, "error": reason})
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def _account(job: DistractorsJob, work: Work, failed: int, embedded: Embedded, where: str) -> None:
    broken = next((error for error in embedded.texts.errors if error), None)
    if broken:
        raise RunError(f"a class name cannot be embedded ({broken})", where=where, fix="correct the class names")
    if failed == work.images.num_rows:
        raise RunError("no image could be embedded", where=f"{where}/quarantine.parquet", fix="mend the files listed there")
    tolerated = job.data.max_corrupt_fraction
    if failed > tolerated * work.requested:
        share = f"{failed} of {work.requested} items cannot be computed, more than data.max_corrupt_fraction = {tolerated:g} allows"
        raise RunError(share, where=f"{where}/quarantine.parquet", fix="mend or remove the files listed there, or raise the fraction")
