"""What a loop finds before its first training, not after its last: names of metrics, and sets that would judge what they selected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fgray.benchmarks.base import LoadedBenchmark
from fgray.benchmarks.pairs import load_pairs
from fgray.config.loop import BASE, LoopJob
from fgray.config.schema import BenchmarkConfig, DataConfig, EvalJob
from fgray.errors import ConfigError, DataError, did_you_mean
from fgray.evaluation.plan import data_fingerprint, load_benchmarks
from fgray.loop.gates import refuse_unknown


def check(job: LoopJob, store: str) -> dict[str, str]:
    """Refuse a loop that could give no verdict.

    Args:
        job: its configuration.
        store: folder or prefix for image indexes and composed images.

    Returns:
        Benchmark -> fingerprint of the data of the WiSE-FT section, on which a share is chosen.

    Raises:
        ConfigError: a gate, a primary metric, or one of the WiSE-FT section names no metric.
        DataError: a picture of a selection set, an arm's or that of WiSE-FT, is in a benchmark of the verdict, too, or one that is trained
            on or mined is in either.
        FgrayError: a benchmark cannot be read.
    """
    judging = _load(job, store, job.benchmarks, job.data, job.primary)
    refuse_unknown(job.gates, _metrics(judging))
    for name, training in {BASE: job.base, **job.arms}.items():
        if training is not None and training.selection is not None:
            chosen = _load(job, store, training.selection.benchmarks, training.data)
            _refuse_shared(chosen, judging, f"{name if name == BASE else f'arms.{name}'}.selection")
    if job.wise_ft is None:
        _refuse_trained(job, store, judging)
        return {}
    chosen = _load(job, store, job.wise_ft.benchmarks, job.data)
    known = _metrics(chosen)
    for key, metric in (("target", job.wise_ft.target), ("keep", job.wise_ft.keep)):
        if metric not in known:
            raise ConfigError(f"its benchmarks have no metric '{metric}'", where=f"wise_ft.{key}", fix=did_you_mean(metric, known))
    _refuse_shared(chosen, judging, "wise_ft.benchmarks")
    _refuse_trained(job, store, judging)
    _refuse_trained(job, store, chosen)
    return {name: data_fingerprint(loaded) for name, loaded in chosen.items()}


def _load(
    job: LoopJob, store: str, benchmarks: list[BenchmarkConfig], data: DataConfig, primary: Iterable[str] = ()
) -> dict[str, LoadedBenchmark]:
    evaluation = EvalJob(
        job="eval", name=job.name, output=job.output, store=store, model=job.model, data=data, benchmarks=benchmarks, primary=list(primary)
    )
    return load_benchmarks(evaluation)


def _metrics(benchmarks: Mapping[str, LoadedBenchmark]) -> list[str]:
    return [metric.name for loaded in benchmarks.values() for metric in loaded.metrics]


def _refuse_shared(selecting: Mapping[str, LoadedBenchmark], judging: Mapping[str, LoadedBenchmark], where: str) -> None:
    for name, loaded in selecting.items():
        ours = _pictures(loaded)
        for other, judge in judging.items():
            shared = ours & _pictures(judge)
            if shared:
                raise DataError(
                    f"'{name}' selects, and {len(shared)} of its {len(ours)} pictures are in '{other}', which judges",
                    where=where,
                    fix="select on other pictures than those of benchmarks",
                )


def _refuse_trained(job: LoopJob, store: str, held_out: Mapping[str, LoadedBenchmark]) -> None:
    """Refuse to train on, or mine from, files of evaluation sets; each part looks for copies of other bytes itself."""
    asked = [(source.pairs, training.data.root) for training in (job.base, *job.arms.values()) if training for source in training.sources]
    if job.mine is not None:
        asked += [(config, job.mine.data.root) for config in (job.mine.pairs, job.mine.corpus) if config is not None]
    for number, (config, root) in enumerate(asked):
        if (config, root) in asked[:number]:
            continue
        pairs = load_pairs(config, root, store)
        if not pairs.index.table.num_rows:
            continue
        ours = set(pairs.index.locate(pairs.images)["sha256"].to_pylist())
        for name, loaded in held_out.items():
            shared = ours & _pictures(loaded)
            if shared:
                raise DataError(
                    f"{len(shared)} of its {len(ours)} pictures are in the evaluation set '{name}'",
                    where=f"pairs of {config.name}",
                    fix="train on, and mine from, other pictures",
                )


def _pictures(loaded: LoadedBenchmark) -> set[bytes]:
    return set(loaded.images.locate(loaded.cases.pictures())["sha256"].to_pylist())
