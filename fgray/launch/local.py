"""Runs a job in this process. The files under jobs/ are its entry points on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fgray.config import LoadedConfig
from fgray.config.loop import LoopJob
from fgray.config.schema import BenchJob, DistractorsJob, EvalJob, MineJob, TextNegativesJob
from fgray.config.train import TrainClipJob
from fgray.errors import ConfigError


def run_local(config: LoadedConfig) -> Any:
    """Run a job to its end and return its result.

    Raises:
        FgrayError: whatever stops the job.
    """
    return _RUNNERS[config.job.job](config)


def plan_job(config: LoadedConfig) -> Any:
    """Return what a job will do, with its ``table()`` for the console; nothing is embedded.

    The index of a plain image folder and the images of a composed benchmark are kept in the store, where the run finds them.

    Raises:
        ConfigError: jobs of this kind have no plan.
    """
    if isinstance(config.job, MineJob):
        from fgray.mining.plan import plan_mining

        return plan_mining(config.job)
    if not isinstance(config.job, EvalJob):
        raise ConfigError(f"a {config.job.job} job has no plan", where=config.path, fix="run it with fgray submit")
    from fgray.evaluation import plan_evaluation

    return plan_evaluation(config.job)


def _evaluate(config: LoadedConfig) -> Any:
    from fgray.evaluation import evaluate

    assert isinstance(config.job, EvalJob)
    return evaluate(config.job, config.source)


def _mine(config: LoadedConfig) -> Any:
    from fgray.mining.run import mine

    assert isinstance(config.job, MineJob)
    return mine(config.job, config.source)


def _text_negatives(config: LoadedConfig) -> Any:
    from fgray.text_negatives.run import make_text_negatives

    assert isinstance(config.job, TextNegativesJob)
    return make_text_negatives(config.job, config.source)


def _distractors(config: LoadedConfig) -> Any:
    from fgray.mining.distractors import mine_distractors

    assert isinstance(config.job, DistractorsJob)
    return mine_distractors(config.job, config.source)


def _train(config: LoadedConfig) -> Any:
    from fgray.training.run import train

    assert isinstance(config.job, TrainClipJob)
    return train(config.job, config.source)


def _loop(config: LoadedConfig) -> Any:
    from fgray.loop.run import run_loop

    assert isinstance(config.job, LoopJob)
    return run_loop(config.job, config.source)


def _bench(config: LoadedConfig) -> Any:
    from fgray.bench import run_suite

    assert isinstance(config.job, BenchJob)
    return run_suite(config.job)


_RUNNERS: dict[str, Callable[[LoadedConfig], Any]] = {
    "eval": _evaluate,
    "mine": _mine,
    "text_negatives": _text_negatives,
    "distractors": _distractors,
    "train_clip": _train,
    "loop": _loop,
    "bench": _bench,
}
