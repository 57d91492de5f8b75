"""The train_clip job: check, train on workers, export the model, write what was seen on the way."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from fgray.benchmarks.base import open_benchmark
from fgray.config.train import TrainClipJob
from fgray.embedding.compute import device_name
from fgray.engine.cluster import cluster
from fgray.engine.lease import open_run
from fgray.errors import RunError
from fgray.evaluation.plan import data_fingerprint
from fgray.losses.combine import CombinedLoss
from fgray.models.open_clip import OpenClipSource
from fgray.models.tiny import TinySource
from fgray.models.trained import CARD, FOLDER
from fgray.report.train import write_train_report
from fgray.runs import SELECTION, RunFolder, describe_job
from fgray.training.checkpoint import Checkpoints
from fgray.training.damage import quarantine_table
from fgray.training.export import chosen_checkpoint, export_model, origin_of, trained_weights
from fgray.training.log import read_log, read_starts
from fgray.training.model import open_trainable_source
from fgray.training.overlap import check_disjoint
from fgray.training.progress import watch
from fgray.training.regions import check_captions
from fgray.training.resume import check_unchanged
from fgray.training.sources import Source, load_sources
from fgray.training.worker import cache_of, inputs_of, order_of


@dataclass(frozen=True)
class TrainResult:
    """A finished training run.

    Attributes:
        uri: its run folder, with the model in ``model/``.
        report: address of report.html.
        training: what metrics.json holds under "training".
    """

    uri: str
    report: str
    training: dict[str, Any]

    def table(self) -> Table:
        """Return the facts of the run for the console."""
        table = Table(title=f"model in {self.uri}/{FOLDER}", title_justify="left", show_header=False)
        for name, value in self.training.items():
            if not isinstance(value, dict | list):
                table.add_row(name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else str(value))
        return table


Predict = Callable[[TrainClipJob, Sequence[Source]], Mapping[str, Any]]


def train(job: TrainClipJob, source: Mapping[str, Any] | None = None, predict: Predict | None = None) -> TrainResult:
    """Run a training job, or finish one that was interrupted, from its newest checkpoint.

    Args:
        job: the configuration.
        source: the configuration as it was written, with ``${ENV}`` unresolved, for run.json; default: the job itself.
        predict: says before the first step what the run will take; run.json keeps it beside what was measured.

    Raises:
        RunError: another run holds the output, it belongs to another configuration, it began with other data, another base model or
            other arithmetic, workers died too often, or numbers are not finite.
        DataError: data are damaged, or an image of an evaluation set would be trained on.
        FgrayError: whatever else is wrong with model or storage.
    """
    device = resolve_device(job)
    with open_run(job) as folder:
        sources, model = load_sources(job, cache_of(job)), open_trainable_source(job.model)
        complete = folder.storage.exists(RunFolder.METRICS) and folder.storage.exists(f"{FOLDER}/{CARD}")
        if complete or Checkpoints(folder.storage, job.checkpoints.keep).steps():  # before, a mistake may be mended in place
            check_unchanged(folder, job, model.fingerprint(), sources)
        if complete:
            return TrainResult(folder.uri, write_train_report(folder), folder.read_json(RunFolder.METRICS)["training"])
        check_disjoint(job, sources, cache_of(job))
        order = order_of(job, sources)
        steps = job.steps or order.steps(job.epochs or 1)
        run = _describe(job, source, sources, model, steps, device)
        if predict is not None:
            run["plan"] = dict(predict(job, sources))
        start = time.monotonic()
        folder.write_json(RunFolder.RUN, run)
        if not _finished(folder, job):
            print(run["loss_weights"], file=sys.stderr)
            with watch(folder, steps):
                _launch(job, device)
        run["timing"] = _timing(job, read_log(folder), time.monotonic() - start) | {"starts": read_starts(folder)}
        if devices := {one["device"] for one in run["timing"]["starts"]}:
            run["compute"]["device"] = " | ".join(sorted(devices))
        return _finish(folder, job, run, steps)


def resolve_device(job: TrainClipJob) -> str:
    """Return "cpu" or "cuda".

    Raises:
        ConfigError: a GPU is asked for and torch finds none.
    """
    from fgray.config.schema import ComputeConfig
    from fgray.embedding import resolve_compute

    return resolve_compute(ComputeConfig(device=job.compute.device), None).device


def _describe(
    job: TrainClipJob,
    source: Mapping[str, Any] | None,
    sources: list[Source],
    model: OpenClipSource | TinySource,
    steps: int,
    device: str,
) -> dict[str, Any]:
    run = describe_job(job, source)
    run["model"] = {"card": model.card.to_dict(), "fingerprint": model.fingerprint()}
    run["steps"] = steps
    run["sources"] = [
        {
            "name": one.name,
            "pairs": len(one),
            "images": one.index.table.num_rows,
            "negative_texts": len(one.text_negatives.items),
            "negative_images": len(one.image_negatives.items),
            "regions": 0 if one.regions is None else len(one.regions),
            "fingerprint": one.fingerprint,
        }
        for one in sources
    ]
    # The driver of a cluster may have no such device; its workers' machines are named when they have started.
    run["compute"] = {**job.compute.model_dump(mode="json"), "device": device_name(device) if cluster() is None else device}
    has_bias = model.settings.get("init_logit_bias") is not None
    loss = CombinedLoss(job.losses, inputs_of(job, has_bias))
    check_captions([one.regions for one in sources], loss.needs)
    run["loss_weights"] = loss.weights_line(steps, job.gather, job.compute.workers)
    run[SELECTION] = {}
    if job.selection is not None:
        for config in job.selection.benchmarks:
            loaded = open_benchmark(config, job.data.root, cache_of(job))
            run[SELECTION][loaded.info.name] = data_fingerprint(loaded)
    return run


def _launch(job: TrainClipJob, device: str) -> None:
    if job.compute.runner == "ray":
        from fgray.training.ray_train import train_on_ray

        train_on_ray(job, device)
        return
    if job.compute.workers != 1:
        raise RunError("runner serial is one worker", where="compute.workers", fix="set it to 1, or take runner: ray")
    from fgray.training.worker import train_worker

    train_worker(job, device)


def _finished(folder: RunFolder, job: TrainClipJob) -> bool:
    saved = Checkpoints(folder.storage, job.checkpoints.keep).load()
    return saved is not None and bool(saved.facts["finished"])


def _finish(folder: RunFolder, job: TrainClipJob, run: dict[str, Any], steps: int) -> TrainResult:
    checkpoints = Checkpoints(folder.storage, job.checkpoints.keep)
    last = checkpoints.load()
    assert last is not None
    chosen = chosen_checkpoint(checkpoints)
    card = export_model(f"{folder.uri}/{FOLDER}", job.model, trained_weights(chosen.tensors), origin_of(job, run, chosen.step))
    rows = [row for row in read_log(folder) if "loss" in row]
    damaged = last.facts.get("damaged", [])
    folder.write_table(RunFolder.QUARANTINE, quarantine_table(damaged))
    training = {
        "steps": last.step,
        "planned_steps": steps,
        "epochs": rows[-1]["epoch"] if rows else None,
        "exported_step": chosen.step,
        "final_loss": rows[-1]["loss"] if rows else None,
        "model_sha256": card.sha256,
        "damaged_images": len(damaged),
        "selection": last.facts.get("selection", []),
    }
    fingerprints = {
        "config": run["fingerprint"],
        "model": run["model"]["fingerprint"],
        "data": [one["fingerprint"] for one in run["sources"]],
    }
    folder.write_json(RunFolder.RUN, run)
    folder.write_json(RunFolder.METRICS, {"fingerprints": fingerprints, "training": training})
    return TrainResult(folder.uri, write_train_report(folder), training)


def _timing(job: TrainClipJob, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return what was measured: rates are medians over the log's rows, without the first one, which holds the warm-up."""
    steps = [row for row in rows if row.get("pairs_per_second")]
    if not steps:
        return {"running_seconds": round(seconds, 3)}
    later = steps[1:] or steps
    rate = statistics.median(row["pairs_per_second"] for row in later)
    waited = statistics.median(row["data_wait_share"] for row in later)
    return {
        "running_seconds": round(seconds, 3),
        "pairs": steps[-1]["step"] * job.batch_size,
        "pairs_per_second": round(rate, 3),
        "data_wait_share": round(waited, 4),
        "limiting_stage": "decode" if waited > 0.5 else "compute",
        "memory_gib": round(max(row.get("memory_gib") or 0.0 for row in steps), 3),
    }
