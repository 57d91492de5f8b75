"""From a training state to a model folder that open_clip and fgray load, or to a file in another code base's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fgray.config.schema import ModelConfig
from fgray.config.train import TrainClipJob
from fgray.errors import ConfigError, DataError, NotFound
from fgray.models.layouts import check_layout, write_layout
from fgray.models.trained import CARD, TrainedCard, write_trained
from fgray.runs import RunFolder
from fgray.storage import open_storage
from fgray.training.checkpoint import Checkpoints, Saved
from fgray.training.model import open_trainable_source
from fgray.training.state import AVERAGE, WEIGHT
from fgray.training.wise_ft import interpolate

OWN_LAYOUT = "fgray"


def trained_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a state by open_clip's names: the moving average where there is one, else the weights themselves."""
    weights = {name.removeprefix(WEIGHT): value for name, value in state.items() if name.startswith(WEIGHT)}
    return weights | {name.removeprefix(AVERAGE): value for name, value in state.items() if name.startswith(AVERAGE)}


def weights_of(config: ModelConfig) -> dict[str, Tensor]:
    """Return the parameters of a model by open_clip's names, fp32 on the CPU.

    Raises:
        ModelError: the model cannot be loaded.
    """
    return {name: weight.detach() for name, weight in open_trainable_source(config).module().named_parameters()}


def export_model(path: str, config: ModelConfig, weights: Mapping[str, Tensor], origin: Mapping[str, Any]) -> TrainedCard:
    """Write the model folder of trained weights; buffers and frozen weights are those of the model that training started from.

    Args:
        path: the folder.
        config: the model that the training started from.
        weights: by open_clip's names, see `trained_weights`.
        origin: what made it; ``name`` is the model's name in tables.

    Raises:
        DataError: a weight is not the model's.
        ModelError: the model that training started from cannot be loaded.
    """
    source = open_trainable_source(config)
    facts = {"parent": source.fingerprint(), **origin}
    state = _filled(source.module(), weights, source.card.architecture, path).state_dict()
    return write_trained(open_storage(path), state, source.settings, source.preprocess, source.card, facts)


def _filled(towers: Any, weights: Mapping[str, Tensor], architecture: str, where: str) -> Any:
    """Put trained weights into the model that training started from, in fp32."""
    state: dict[str, Tensor] = dict(towers.state_dict())
    for name, value in weights.items():
        if name not in state or state[name].shape != value.shape:
            own = list(state[name].shape) if name in state else "missing"
            what = f"tensor '{name}' {list(value.shape)} does not fit {architecture} ({own})"
            raise DataError(what, where=where, fix="use the model section that the run was trained with")
        state[name] = value.to(torch.float32)
    towers.load_state_dict(state)
    return towers


def chosen_checkpoint(checkpoints: Checkpoints, step: int | None = None) -> Saved:
    """Return the checkpoint of a step; by default the best one of the run's selection, where it has one, else the newest.

    Raises:
        NotFound: there is none.
        DataError: it is damaged.
    """
    where = checkpoints.storage.uri
    steps = checkpoints.steps()
    if not steps:
        raise NotFound("there is no checkpoint", where=where, fix="name the folder of a train_clip run that has written one")
    if step is None:
        last = checkpoints.load(steps[-1])
        assert last is not None
        history: list[dict[str, Any]] = last.facts.get("selection", [])
        step = max(history, key=lambda row: (row["value"], -row["step"]))["step"] if history else last.step
        if step == last.step:
            return last
    if step not in steps:
        raise NotFound(f"there is no checkpoint of step {step}", where=where, fix=f"there are {', '.join(map(str, steps))}")
    found = checkpoints.load(step)
    assert found is not None
    return found


def origin_of(job: TrainClipJob, run: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Return what a model's card says of the run that made it.

    Args:
        job: the training job.
        run: its run.json.
        step: of the checkpoint.
    """
    return {
        "name": job.name,
        "run": run["fingerprint"],
        "step": step,
        "data": [one["fingerprint"] for one in run["sources"]],
        "losses": [config.model_dump(mode="json") for config in job.losses],
    }


def export_run(
    folder: RunFolder,
    job: TrainClipJob,
    path: str,
    step: int | None = None,
    alpha: float | None = None,
    base: ModelConfig | None = None,
    layout: str = OWN_LAYOUT,
) -> TrainedCard:
    """Write the model folder of a run's checkpoint, or of weights between the run's start and that checkpoint.

    Args:
        folder: the run folder of a train_clip job, finished or not.
        job: its job.
        path: a new folder; in another layout a new ``.pt`` file.
        step: which checkpoint; None: see `chosen_checkpoint`.
        alpha: share of the trained weights (WiSE-FT); None: all of them.
        base: the model that the run started from, where it lies elsewhere now; None: as the job says.
        layout: "fgray" for the folder, or one of `fgray.models.layouts` for a file that another code base loads.

    Raises:
        ConfigError: a share that is no share, a folder that holds a model, a base that is another model, an unknown layout, or in
            another layout a path that is no new ``.pt`` file.
        NotFound, DataError: as `chosen_checkpoint`.
        ModelError: the model that the run started from cannot be loaded, or does not fit the layout.
    """
    if layout != OWN_LAYOUT:
        check_layout(path, layout)
        return _export_layout(path, layout, *_chosen_weights(folder, job, step, alpha, base))
    if open_storage(path).exists(CARD):
        raise ConfigError("the folder holds a model", where=path, fix="name a new folder")
    return export_model(path, *_chosen_weights(folder, job, step, alpha, base))


def _export_layout(path: str, layout: str, config: ModelConfig, weights: Mapping[str, Tensor], origin: Mapping[str, Any]) -> TrainedCard:
    source = open_trainable_source(config)
    card, facts = source.card, {"parent": source.fingerprint(), **origin, "layout": layout}
    sha256 = write_layout(path, _filled(source.module(), weights, card.architecture, path), layout)
    return TrainedCard(str(origin["name"]), card.architecture, card.activation, sha256, facts)


def _chosen_weights(
    folder: RunFolder, job: TrainClipJob, step: int | None, alpha: float | None, base: ModelConfig | None
) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Return the model that a run started from, the weights to put into it, and what made them."""
    if alpha is not None and not 0 <= alpha <= 1:
        raise ConfigError(f"{alpha:g} is no share of the trained weights", where="alpha", fix="give a number from 0 to 1")
    run = folder.read_run()
    start = base or job.model
    if open_trainable_source(start).fingerprint() != run["model"]["fingerprint"]:
        what = "this is not the model that the run started from" if base else "the model that the run started from has changed"
        raise ConfigError(what, where=folder.uri, fix="name that model with base")
    saved = chosen_checkpoint(Checkpoints(folder.storage, job.checkpoints.keep), step)
    weights, origin = trained_weights(saved.tensors), origin_of(job, run, saved.step)
    if alpha is not None:
        before = weights_of(start)
        weights = interpolate({name: before[name] for name in weights if name in before}, weights, alpha)
        origin |= {"name": f"{job.name} at alpha {alpha:g}", "alpha": alpha}
    return start, weights, origin
