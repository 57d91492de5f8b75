"""A tiny model, a batch with hard negatives and losses for tests of the training step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgray.config.schema import TinyModel
from fgray.config.train import LossConfig, OptimizerConfig, TrainCompute
from fgray.losses.combine import CombinedLoss
from fgray.losses.features import Inputs
from fgray.training.batch import Batch, place
from fgray.training.engine import Engine
from fgray.training.model import Trainable, build_trainable

PAIRS, NEGATIVE_TEXTS, NEGATIVE_IMAGES = 12, 4, 1
# Small parameters are cut, too: DeepSpeed's default would leave nearly all of a tiny model whole.
CUT_ALL = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
CONSTANT_SGD = OptimizerConfig(name="sgd", lr=0.01, warmup_steps=0, schedule="constant", clip_grad_norm=None)


def batch(step: int, size: int = PAIRS) -> Batch:
    """Return the whole batch of a step: pixels and words drawn from the step's number, some negatives missing."""
    rng = np.random.default_rng(1000 + step)
    words = np.array(["red", "green", "blue", "small", "large", "old", "dog", "cat", "car", "tree", "house", "left", "right"])
    text_there, image_there = rng.random((size, NEGATIVE_TEXTS)) < 0.7, rng.random((size, NEGATIVE_IMAGES)) < 0.5
    text_there[0], image_there[0] = False, False
    texts = [" ".join(rng.choice(words, 4)) for _ in range(size + int(text_there.sum()))]
    images = rng.integers(0, 256, (size + int(image_there.sum()), 32, 32, 3), dtype=np.uint8)
    numbers = np.arange(size, dtype=np.int64)
    return Batch(images, texts, size, place(text_there), place(image_there), np.zeros_like(numbers), numbers)


def part_of_rank(whole: Batch, rank: int, world: int) -> Batch:
    """Return a rank's pairs with their negatives."""
    return whole.micro(whole.size // world)[rank]


def losses(*names: str) -> CombinedLoss:
    """Return the sum of losses."""
    return CombinedLoss([LossConfig(name=name) for name in names], Inputs(NEGATIVE_TEXTS, NEGATIVE_IMAGES))


def engine(zero: int = 0, optimizer: OptimizerConfig = CONSTANT_SGD, **options: Any) -> tuple[Trainable, Engine]:
    """Return a tiny model of fixed weights in an engine; every parameter is cut at stage 3."""
    compute = {name: options.pop(name) for name in ("precision",) if name in options}
    trainable = build_trainable(TinyModel(kind="tiny", seed=3), **compute, **options)
    settings = CUT_ALL if zero == 3 else None
    return trainable, Engine(trainable, optimizer, TrainCompute(zero=zero, **compute), "cpu", 20, settings)


def full_gradients(engine: Engine) -> dict[str, Tensor]:
    """Return the gradient of every trainable parameter after the last backward pass of a step; every rank calls it."""
    from deepspeed.utils import safe_get_full_grad

    found: dict[str, Tensor] = {}
    for name, weight in engine.weights.items():
        if weight.requires_grad:
            value = weight.grad if engine.stage == 0 else safe_get_full_grad(weight)
            assert value is not None
            found[name] = value.detach().clone()
    return found


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest 2-norm of the difference over that of the expected tensor; names must agree.

    Tensors whose expected norm is below a millionth of the largest count beside that millionth: they are sums that cancel.
    """
    assert found.keys() == expected.keys()
    floor = 1e-6 * max(float(value.double().norm()) for value in expected.values())
    return max(
        float((found[name].double().flatten() - value.double().flatten()).norm()) / max(float(value.double().norm()), floor)
        for name, value in expected.items()
    )


def concatenated(values: dict[str, Tensor]) -> Tensor:
    """Return all values as one float64 vector in the order of names."""
    return torch.cat([values[name].double().flatten() for name in sorted(values)])
