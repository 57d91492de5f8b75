"""How weights move: decay groups, warm-up and decay of the learning rate, the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgray.config.train import OptimizerConfig

_UNDECAYED = ("bn", "ln", "bias", "logit_scale")


def decayed(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether weight decay applies: not to vectors and scalars, nor to what is named as a norm, a bias or the logit scale.

    This is open_clip's rule, with which CLIP's fine-tunes were trained (open_clip_train/main.py; CE-CLIP and NegCLIP inherit it).
    """
    return parameter.ndim >= 2 and not any(part in name for part in _UNDECAYED)


def make_optimizer(weights: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return PyTorch's AdamW or SGD over the trainable parameters, in two groups: without and with weight decay.

    Args:
        weights: all parameters by name; frozen ones are left out.
        config: names and numbers of the optimizer.
    """
    trainable = {name: parameter for name, parameter in weights.items() if parameter.requires_grad}
    plain = [parameter for name, parameter in trainable.items() if not decayed(name, parameter)]
    decaying = [parameter for name, parameter in trainable.items() if decayed(name, parameter)]
    groups: list[dict[str, Any]] = [
        {"params": plain, "weight_decay": 0.0},
        {"params": decaying, "weight_decay": config.weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to zero, or constant.

    The formula is open_clip's: the first step of the warm-up has ``lr / warmup_steps``, the step after it the full rate.

    Args:
        step: number of the step, from 0.
        steps: length of the training.
        config: peak, warm-up and schedule.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class MovingAverage:
    """Exponential moving average of weights, ``average = decay * average + (1 - decay) * weight`` after every step.

    Args:
        decay: share of the average that stays.
        weights: this rank's view of the weights, which are read again at every update; their values now are the first average.
    """

    def __init__(self, decay: float, weights: Mapping[str, Tensor]) -> None:
        self._decay = decay
        self.values = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Move the average towards the weights."""
        for name, value in self.values.items():
            value.lerp_(weights[name].detach(), 1 - self._decay)
