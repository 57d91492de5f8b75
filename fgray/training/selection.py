"""Evaluation during training: which checkpoint is best, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fgray.config.schema import ComputeConfig, EvalJob, TrainedModel
from fgray.config.train import SelectionConfig, TrainClipJob
from fgray.errors import ConfigError, did_you_mean
from fgray.evaluation import evaluate
from fgray.training.export import export_model, trained_weights


class Selection:
    """The evaluations of one run.

    Args:
        job: the training job, which has a ``selection``.

    Attributes:
        history: ``{"step", "value"}`` of every evaluation so far.
    """

    def __init__(self, job: TrainClipJob) -> None:
        assert job.selection is not None
        self.job = job
        self.config: SelectionConfig = job.selection
        self.folder = f"{job.output.rstrip('/')}/selection"
        self.history: list[dict[str, Any]] = []

    @property
    def best_step(self) -> int | None:
        """Return the step with the largest value, the earliest of equals; None before the first evaluation."""
        return max(self.history, key=lambda row: (row["value"], -row["step"]))["step"] if self.history else None

    @property
    def exhausted(self) -> bool:
        """Tell whether `patience` evaluations in a row brought nothing better."""
        if self.config.patience is None or not self.history:
            return False
        best = self.best_step or 0
        return sum(1 for row in self.history if row["step"] > best) >= self.config.patience

    def due(self, done: int, steps: int) -> bool:
        """Tell whether to evaluate after `done` of `steps` steps; the last step is always evaluated."""
        return done % self.config.every_steps == 0 or done == steps

    def evaluate(self, done: int, state: Mapping[str, Tensor]) -> float:
        """Evaluate the weights of a state, remember the value and return it.

        Raises:
            ConfigError: the benchmarks have no metric of the wanted name.
            FgrayError: what the evaluation raises.
        """
        path = f"{self.folder}/model"
        export_model(path, self.job.model, trained_weights(state), {"name": f"{self.job.name} at step {done}", "step": done})
        run = evaluate(
            EvalJob(
                job="eval",
                name=f"{self.job.name}, selection at step {done}",
                model=TrainedModel(kind="trained", path=path),
                data=self.job.data,
                benchmarks=self.config.benchmarks,
                compute=ComputeConfig(runner="serial", device=self.job.compute.device, threads=self.job.compute.threads),
                output=f"{self.folder}/step-{done:08d}",
                store=self.job.store_uri,  # sets that are composed are composed once
            )
        )
        if self.config.metric not in run.metrics:
            raise ConfigError(
                f"the selection's benchmarks have no metric '{self.config.metric}'",
                where="selection.metric",
                fix=did_you_mean(self.config.metric, run.metrics),
            )
        value = float(run.metrics[self.config.metric]["value"])
        self.history = [row for row in self.history if row["step"] < done] + [{"step": done, "value": value}]
        return value
