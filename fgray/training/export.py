"""From a training state to a model folder that open_clip and fgray load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fgray.config.schema import ModelConfig
from fgray.errors import DataError
from fgray.models.trained import TrainedCard, write_trained
from fgray.storage import open_storage
from fgray.training.model import open_trainable_source
from fgray.training.state import AVERAGE, WEIGHT


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
    fingerprint = source.fingerprint()
    state: dict[str, Tensor] = dict(source.module().state_dict())
    for name, value in weights.items():
        if name not in state or state[name].shape != value.shape:
            own = list(state[name].shape) if name in state else "missing"
            what = f"tensor '{name}' {list(value.shape)} does not fit {source.card.architecture} ({own})"
            raise DataError(what, where=path, fix="use the model section that the run was trained with")
        state[name] = value.to(torch.float32)
    facts = {"parent": fingerprint, **origin}
    return write_trained(open_storage(path), state, source.settings, source.preprocess, source.card, facts)
