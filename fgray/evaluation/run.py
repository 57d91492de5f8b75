"""The eval job: plan, embed what is missing, score, summarise, write the run folder and its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from fgray.benchmarks.base import LoadedBenchmark
from fgray.config.schema import EvalJob, PrecomputedModel
from fgray.embedding import IMAGE, REGION, embed
from fgray.embedding.compute import joint_numerics
from fgray.engine.lease import open_run
from fgray.evaluation.plan import Plan, data_fingerprint, images_fingerprint, load_benchmarks, plan_evaluation
from fgray.evaluation.quarantine import account, count_failed, list_quarantine
from fgray.evaluation.reduce import Reducer
from fgray.evaluation.scorers import embedding_scorer, precomputed_scorer
from fgray.evaluation.scoring import Scorer, score_slices
from fgray.metrics.spec import to_dict as metric_to_dict
from fgray.models.precomputed import open_precomputed
from fgray.report.html import write_report
from fgray.runs import ITEM_SCHEMA, QUARANTINE_SCHEMA, SAMPLE_SCHEMA, RunFolder, describe_job


@dataclass(frozen=True)
class RunResult:
    """A finished evaluation.

    Attributes:
        uri: its run folder.
        report: address of report.html.
        metrics: the content of metrics.json under "metrics".
    """

    uri: str
    report: str
    metrics: dict[str, dict[str, Any]]


Predict = Callable[[Plan], Mapping[str, Any]]


def evaluate(job: EvalJob, source: Mapping[str, Any] | None = None, predict: Predict | None = None) -> RunResult:
    """Run an evaluation, or finish one that was interrupted: what the store holds is not computed again.

    Args:
        job: the configuration.
        source: the configuration as it was written, with ``${ENV}`` unresolved, for run.json; default: the job itself.
        predict: says before anything is computed what the run will take; run.json keeps it beside what was measured.

    Raises:
        RunError: another run holds the output, the output belongs to another configuration, too many items are corrupt,
            or an item is unaccounted for.
        FgrayError: whatever else is wrong with data, model or storage.
    """
    with open_run(job) as folder:
        if isinstance(job.model, PrecomputedModel):
            return _evaluate_precomputed(job, job.model, folder, source)
        return _evaluate_encoder(plan_evaluation(job), folder, source, predict)


def _evaluate_encoder(plan: Plan, folder: RunFolder, source: Mapping[str, Any] | None, predict: Predict | None) -> RunResult:
    job, model = plan.job, plan.source
    run = {
        **_describe(job, source, plan.benchmarks),
        "model": {"card": model.card.to_dict(), "fingerprint": model.fingerprint()},
        "compute": asdict(plan.compute),
        "numerics": plan.compute.numerics(model),
    }
    if predict is not None:
        run["plan"] = dict(predict(plan))
    folder.write_json(RunFolder.RUN, run)
    folder.write_slices(RunFolder.ITEMS, ITEM_SCHEMA, plan.work.item_slices())
    start = time.monotonic()
    embedded, progress = embed(plan.work, model, plan.store, plan.compute, job.data.max_pixels)
    quarantine = list_quarantine(plan.benchmarks, model.fingerprint(), job.data.max_pixels, embedded)
    folder.write_table(RunFolder.QUARANTINE, quarantine)
    account(plan.work, embedded, job.data.max_corrupt_fraction, folder.uri)
    run["items"] = {
        "requested": plan.work.requested,
        "scored": plan.work.requested - count_failed(embedded),
        "quarantined": count_failed(embedded),
        "truncated_texts": int(embedded.texts.columns["truncated"].sum()) if plan.work.texts.num_rows else 0,
        "numerics_classes": _numerics_classes(plan),
    }
    run["numerics"] = joint_numerics(run["numerics"], run["items"]["numerics_classes"])
    run["timing"] = {
        "embedding_seconds": round(time.monotonic() - start, 3),
        "computed": progress.done_items,
        "first_commit_seconds": progress.first_commit_seconds,
        "limiting_stage": progress.limiting_stage(),
        "splits": progress.splits,
        **progress.measured(),
    }

    fingerprint, limit = model.fingerprint(), job.data.max_pixels
    scorers = {name: embedding_scorer(loaded, fingerprint, limit, embedded) for name, loaded in plan.benchmarks.items()}
    return _finish(job, plan.benchmarks, scorers, fingerprint, run, folder)


def _evaluate_precomputed(job: EvalJob, config: PrecomputedModel, folder: RunFolder, source: Mapping[str, Any] | None) -> RunResult:
    scores = open_precomputed(config)
    benchmarks = load_benchmarks(job)
    run = {
        **_describe(job, source, benchmarks),
        "model": {"card": {"name": scores.name, "kind": "precomputed"}, "fingerprint": scores.fingerprint()},
    }
    folder.write_json(RunFolder.RUN, run)
    folder.write_table(RunFolder.QUARANTINE, QUARANTINE_SCHEMA.empty_table())

    scorers = {name: precomputed_scorer(loaded, scores) for name, loaded in benchmarks.items()}
    return _finish(job, benchmarks, scorers, scores.fingerprint(), run, folder)


def _finish(
    job: EvalJob,
    benchmarks: Mapping[str, LoadedBenchmark],
    scorers: Mapping[str, Scorer],
    model_fingerprint: str,
    run: dict[str, Any],
    folder: RunFolder,
) -> RunResult:
    """Score, summarise and write everything that does not depend on how the scores came to be."""
    reducers = {name: Reducer(loaded, job.stats) for name, loaded in benchmarks.items()}
    slices = (reducers[name].watch(score_slices(name, benchmarks[name].cases, scorers[name])) for name in sorted(benchmarks))
    folder.write_slices(RunFolder.SAMPLES, SAMPLE_SCHEMA, chain.from_iterable(slices))
    regions = [
        loaded.cases.regions.add_column(0, "benchmark", pa.repeat(name, loaded.cases.regions.num_rows))
        for name, loaded in benchmarks.items()
        if loaded.cases.regions is not None
    ]
    if regions:
        folder.write_table(RunFolder.REGIONS, pa.concat_tables(regions))
    for reducer in reducers.values():
        reducer.check()  # before intervals take their time
    metrics, controls = {}, {}
    for reducer in reducers.values():
        metrics.update(reducer.metrics())
        controls.update(reducer.controls())
    fingerprints = {
        "config": run["fingerprint"],
        "model": model_fingerprint,
        "data": {name: data_fingerprint(loaded) for name, loaded in benchmarks.items()},
    }
    folder.write_json(RunFolder.RUN, run)
    folder.write_json(RunFolder.METRICS, {"fingerprints": fingerprints, "metrics": metrics, "controls": controls})
    report = write_report(folder, lambda benchmark, key: read_image(benchmarks[benchmark], key))
    return RunResult(folder.uri, report, metrics)


def _numerics_classes(plan: Plan) -> list[dict[str, Any]]:
    """Return the distinct numerics classes of the run's images and regions."""
    kinds = [kind for kind, items in plan.work.kinds() if kind in (IMAGE, REGION) and items.num_rows]
    found = [numerics for kind in kinds for numerics in plan.store.numerics(kind)]
    return [numerics for at, numerics in enumerate(found) if numerics not in found[:at]]


def read_image(loaded: LoadedBenchmark, key: str) -> bytes:
    """Return the encoded bytes of one image of a benchmark."""
    return loaded.images.read(loaded.images.locate([key]))[0]


def _describe(job: EvalJob, source: Mapping[str, Any] | None, benchmarks: Mapping[str, LoadedBenchmark]) -> dict[str, Any]:
    """Return what run.json says before anything was computed."""
    return {
        **describe_job(job, source),
        "stats": job.stats.model_dump(mode="json"),
        "primary": list(job.primary),
        "benchmarks": {name: _describe_benchmark(loaded) for name, loaded in benchmarks.items()},
    }


def _describe_benchmark(loaded: LoadedBenchmark) -> dict[str, Any]:
    info = loaded.info
    counts: dict[str, int] = {}
    for subset, task in zip(loaded.cases.table["subset"].to_pylist(), loaded.cases.table["task"].to_pylist(), strict=True):
        counts[f"{subset}/{task}"] = counts.get(f"{subset}/{task}", 0) + 1
    published = [{"model": p.model, "source": p.source, "values": dict(p.values)} for p in info.published] if loaded.official else []
    return {
        "benchmark": info.name,
        "title": loaded.title or info.title,
        "summary": info.summary,
        "url": info.url,
        "licence": info.licence,
        "bibtex": info.bibtex,
        "ties": info.ties,
        "official": loaded.official,
        "notes": list(loaded.notes),
        "counts": counts,
        "published": published,
        "primary": list(info.primary),
        "metrics": [metric_to_dict(metric) for metric in loaded.metrics],
        "images": {"requested": len(loaded.cases.references("image")), "fingerprint": images_fingerprint(loaded)},
        "texts": {"requested": len(loaded.cases.references("text"))},
        "regions": {"requested": len(loaded.cases.references("region"))},
    }
