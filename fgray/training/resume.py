"""Whether a run that is resumed is still the run that began: data, base model and arithmetic, which the configuration does not pin."""

from __future__ import annotations

from collections.abc import Sequence

from fgray.config.train import TrainClipJob
from fgray.errors import NotFound, RunError
from fgray.runs import RunFolder
from fgray.training.sources import Source


def check_unchanged(folder: RunFolder, job: TrainClipJob, model: str, sources: Sequence[Source]) -> None:
    """Refuse to go on with a run that began with something else.

    Workers, threads, device, ZeRO stage and runner may differ: they change where the numbers are computed, not which.

    Args:
        folder: the run folder; without run.json there is nothing to compare with.
        job: the configuration as it is now.
        model: fingerprint of the base model as it is now.
        sources: what would be trained on now.

    Raises:
        RunError: data, base model or arithmetic have changed.
    """
    try:
        run = folder.read_json(RunFolder.RUN)
    except NotFound:
        return
    compute = job.compute.model_dump(mode="json")
    before, now = run.get("compute", {}), {name: compute[name] for name in ("precision", "accumulation", "micro_batch")}
    if before.get("accumulation") == now["accumulation"] == "cached":
        del now["micro_batch"]  # cached gradients are the whole batch's, however it is cut
    changes = [f"compute.{name} was {before.get(name)} and is {value}" for name, value in now.items() if before.get(name) != value]
    if run.get("model", {}).get("fingerprint") != model:
        changes.append("the base model is another one")
    data = [one.get("fingerprint") for one in run.get("sources", [])]
    for position, source in enumerate(sources):
        if data[position : position + 1] != [source.fingerprint]:
            changes.append(f"the data of sources[{position}] ({source.name}) has changed")
    if changes:
        what = f"the run in this output began with something else: {'; '.join(changes)}"
        raise RunError(what, where=folder.uri, fix="choose another output, or bring back what it began with")
