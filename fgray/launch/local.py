"""Runs a job in this process. The files under jobs/ are its entry points on a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fgray.config import LoadedConfig
from fgray.config.loop import LoopJob
from fgray.config.schema import BenchJob, DistractorsJob, EvalJob, MineJob, TextNegativesJob
from fgray.config.train import TrainClipJob

if TYPE_CHECKING:
    from fgray.embedding import Compute, Work
    from fgray.evaluation import Plan
    from fgray.launch.plan.job_plan import JobPlan
    from fgray.models.base import ModelSource
    from fgray.training.sources import Source

_log = logging.getLogger(__name__)


def run_local(config: LoadedConfig) -> Any:
    """Run a job to its end and return its result.

    Raises:
        FgrayError: whatever stops the job.
    """
    return _RUNNERS[config.job.job](config)


def plan_job(config: LoadedConfig) -> JobPlan:
    """Return what a job will do and take, with its ``table()`` for the console; nothing is embedded.

    The index of a plain image folder and the images of a composed benchmark are kept in the store, where the run finds them.

    Raises:
        ConfigError: its shape would hang, spill or not fit, or jobs of this kind have no plan.
    """
    from fgray.launch.plan.job_plan import plan_config

    return plan_config(config)


def _evaluate(config: LoadedConfig) -> Any:
    from fgray.evaluation import evaluate

    assert isinstance(config.job, EvalJob)
    result = evaluate(config.job, config.source, _predicted)
    _learn(result.uri)
    return result


def _predicted(plan: Plan) -> dict[str, Any]:
    from fgray.launch.plan.calibration import Calibration
    from fgray.launch.plan.job_plan import predict_evaluation

    return _unless_it_fails(lambda: predict_evaluation(plan, None, Calibration()).facts)


def _predicted_mining(job: MineJob, work: Work, source: ModelSource, compute: Compute) -> dict[str, Any]:
    from fgray.launch.plan.calibration import Calibration
    from fgray.launch.plan.mining import predict_embedding

    return _unless_it_fails(lambda: predict_embedding(job, work, source.card, compute, None, Calibration()).facts())


def _predicted_training(job: TrainClipJob, sources: Sequence[Source]) -> dict[str, Any]:
    from fgray.launch.plan.calibration import Calibration
    from fgray.launch.plan.training import forecast_training

    return _unless_it_fails(lambda: forecast_training(job, None, Calibration(), sources).facts())


def _unless_it_fails(predict: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a prediction; none is worth a run."""
    try:
        return predict()
    except Exception as error:  # whatever a foreign architecture does on PyTorch's meta device
        _log.warning("the run has no prediction: %s", error)
        return {}


def _learn(uri: str) -> None:
    """Let the next plan know what this run measured."""
    from fgray.launch.plan.learn import learn_from

    learn_from(uri)


def _mine(config: LoadedConfig) -> Any:
    from fgray.mining.run import mine

    assert isinstance(config.job, MineJob)
    result = mine(config.job, config.source, partial(_predicted_mining, config.job))
    _learn(result.uri)
    return result


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
    result = train(config.job, config.source, _predicted_training)
    _learn(result.uri)
    return result


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
