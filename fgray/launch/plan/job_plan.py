"""The plan of a job of any kind: what it will do, and what that takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from fgray.config import LoadedConfig
from fgray.config.schema import DistractorsJob, EvalJob, MineJob, PrecomputedModel, StoredJob, TextNegativesJob
from fgray.config.train import TrainClipJob
from fgray.errors import ConfigError
from fgray.launch.clusters.file import ClusterFile, load_cluster
from fgray.launch.plan.calibration import Calibration
from fgray.launch.plan.place import Place, as_job_on
from fgray.launch.plan.shape import Refusal, check_pools, check_training, refuse

LOCAL = "local"


@dataclass(frozen=True)
class JobPlan:
    """A job's plan.

    Attributes:
        work: what the job will do; its own plan, where it has one.
        facts: what run.json says under "plan".
        lines: (name, text) of the forecast.
        refusals: why it must not start so.
        title: of the table.
    """

    work: Any
    facts: dict[str, Any]
    lines: tuple[tuple[str, str], ...]
    refusals: tuple[Refusal, ...]
    title: str

    def table(self) -> Table:
        """Return the plan as a table for the console."""
        table: Table = self.work.table() if self.work is not None else Table(title=self.title, show_header=False)
        for name, text in self.lines:
            table.add_row(name, text)
        return table


def plan_config(config: LoadedConfig) -> JobPlan:
    """Return what a job will do and take; nothing is computed.

    Raises:
        ConfigError: its shape would hang, spill or not fit, or jobs of this kind have no plan.
        FgrayError: whatever is wrong with data, model, cluster file or storage.
    """
    job = config.job
    file = None if job.cluster == LOCAL else load_cluster(job.cluster)
    with as_job_on(file):
        plan = _plan(config, file)
    refuse(plan.refusals, config.path)
    return plan


def check_workers(config: LoadedConfig, file: ClusterFile) -> None:
    """Refuse workers for which a cluster can never have room, before it is started for them; data and model are not looked at.

    Raises:
        ConfigError: some would be waited for without end.
    """
    with as_job_on(file):
        refuse(_placing(config.job, file), config.path)


def _placing(job: Any, file: ClusterFile) -> list[Refusal]:
    where = Place(f"the cluster '{file.name}'", file, None)
    if isinstance(job, TrainClipJob) and job.compute.runner == "ray":
        from fgray.launch.plan.training import device_kind, training_pool

        return check_training(training_pool(job.compute, device_kind(job)), where, 0)
    if not isinstance(job, EvalJob | MineJob | DistractorsJob | TextNegativesJob):
        return []  # a serial training takes no place; a loop is made of jobs that are planned one by one
    from fgray.embedding import resolve_compute
    from fgray.launch.plan.forecast import embedding_pools

    pools = embedding_pools(resolve_compute(job.compute, None))
    precomputed = isinstance(getattr(job, "model", None), PrecomputedModel)
    if isinstance(job, EvalJob) and precomputed:
        return []
    one_stage = precomputed or isinstance(job, TextNegativesJob)  # at a time: nothing is decoded beside it
    return check_pools(pools[1:] if one_stage else pools, where)


def _plan(config: LoadedConfig, file: ClusterFile | None) -> JobPlan:
    job, calibration = config.job, Calibration()
    title = f"plan of {job.name}"
    if isinstance(job, EvalJob):
        from fgray.evaluation import plan_evaluation

        planned = plan_evaluation(job)
        return replace(predict_evaluation(planned, file, calibration), work=planned)
    if isinstance(job, MineJob):
        from fgray.launch.plan.mining import plan_mine

        return plan_mine(job, file, calibration)
    if isinstance(job, TrainClipJob):
        from fgray.launch.plan.training import forecast_training

        found = forecast_training(job, file, calibration)
        return JobPlan(None, found.facts(), tuple(found.rows()), found.refusals, title)
    if isinstance(job, TextNegativesJob):
        from fgray.launch.plan.texts import text_negatives_rows

        return JobPlan(None, {}, tuple(text_negatives_rows(job)), (), title)
    raise ConfigError(f"a {job.job} job has no plan", where=config.path, fix="run it with fgray submit; its parts are jobs of their own")


def predict_evaluation(planned: Any, file: ClusterFile | None, calibration: Calibration) -> JobPlan:
    """Return the forecast of an evaluation whose work is known.

    Args:
        planned: a `fgray.evaluation.Plan`.
        file: the cluster; None: this machine.
        calibration: of earlier runs.
    """
    from fgray.launch.plan.forecast import forecast_embedding

    job = planned.job
    found = forecast_embedding(planned.work, planned.source.card, job.model, planned.compute, job.compute, file, on_s3(job), calibration)
    return JobPlan(None, found.facts(), tuple(found.rows()), found.refusals, f"plan of {job.name}")


def on_s3(job: StoredJob) -> bool:
    """Return whether a job reads from S3 or keeps its results there."""
    benchmarks: Any = getattr(job, "benchmarks", ())
    roots = [getattr(getattr(job, "data", None), "root", None), *(one.root for one in benchmarks)]
    return any(str(uri).startswith("s3://") for uri in (job.store_uri, *roots) if uri)


__all__ = ["JobPlan", "check_workers", "on_s3", "plan_config", "predict_evaluation"]
