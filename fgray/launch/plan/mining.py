"""The forecast of a mining job: what is embedded, and the size of its searches."""

from __future__ import annotations

from dataclasses import replace

from fgray.config.schema import MineJob, PrecomputedModel
from fgray.embedding import Compute, Work, resolve_compute
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.plan.calibration import Calibration
from fgray.launch.plan.forecast import Forecast, forecast_embedding
from fgray.launch.plan.job_plan import JobPlan, on_s3
from fgray.launch.plan.place import Place, place_of
from fgray.launch.status import duration
from fgray.mining.plan import MinePlan, plan_mining
from fgray.models import open_model
from fgray.models.base import ModelCard

_SEARCH_EFFICIENCY = {True: 0.25, False: 0.5}  # of the device's GFLOP/s in the forward pass: scores are merged and filtered besides


def plan_mine(job: MineJob, file: ClusterFile | None, calibration: Calibration) -> JobPlan:
    """Return the plan of a mining job.

    Raises:
        FgrayError: whatever is wrong with configuration, data, model or storage.
    """
    planned = plan_mining(job)
    plan = JobPlan(planned, {}, (), (), f"plan of {job.name}")
    if planned.work is None or isinstance(job.model, PrecomputedModel):
        return plan
    source = open_model(job.model)
    compute = resolve_compute(job.compute, source)
    place = place_of(file, compute.device)
    on_gpu = place.device is not None and place.device.is_gpu
    search = search_seconds(planned, job, place, compute.workers * (1 if on_gpu else compute.threads))
    found = predict_embedding(job, planned.work, source.card, compute, file, calibration, search or 0.0)
    lines = [*found.rows()]
    if search is not None:
        at = next((row for row, (name, _) in enumerate(lines) if name == "time"), len(lines) - 1)
        lines.insert(at + 1, ("search", f"about {duration(search)} of that, by arithmetic alone"))
    return replace(plan, facts={**found.facts(), "search_seconds": search}, lines=tuple(lines), refusals=found.refusals)


def predict_embedding(
    job: MineJob,
    work: Work,
    card: ModelCard,
    compute: Compute,
    file: ClusterFile | None,
    calibration: Calibration,
    search: float = 0.0,
) -> Forecast:
    """Return the forecast of what a mining job embeds, and of the seconds that it searches."""
    return forecast_embedding(work, card, job.model, compute, job.compute, file, on_s3(job), calibration, search)


def search_seconds(planned: MinePlan, job: MineJob, place: Place, parallel: int) -> float | None:
    """Return the time of the exact searches: two operations per number of every pair of vectors.

    Args:
        planned: sizes of the searches.
        job: the configuration.
        place: where it runs.
        parallel: workers, on a CPU with their threads.
    """
    from fgray.launch.plan.architecture import architecture_of

    if place.device is None:
        return None
    known = architecture_of(job.model)
    width = known.dimension if known is not None else 512
    operations = sum(2.0 * anchors * corpus * width for anchors, corpus in planned.sizes.values())
    speed = place.device.gflops("fp16", 0.4) * _SEARCH_EFFICIENCY[place.device.is_gpu] * parallel
    return round(operations / (speed * 1e9), 3)
