"""A tiny model, a batch with hard negatives and losses for tests of the training step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgray.config.schema import Dtype, OpenClipModel
from fgray.config.train import LossConfig, OptimizerConfig, TrainCompute
from fgray.losses.combine import CombinedLoss
from fgray.losses.features import Inputs
from fgray.training.batch import Batch, place
from fgray.training.engine import Engine
from fgray.training.model import build_trainable

PAIRS, NEGATIVE_TEXTS, NEGATIVE_IMAGES = 12, 4, 1
SGD = OptimizerConfig(name="sgd", lr=0.02, warmup_steps=0, schedule="constant", clip_grad_norm=20.0)
SETTINGS: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


class CutAll(Engine):
    """At stage 3 cuts small parameters, too: DeepSpeed's default would leave nearly all of a tiny model whole."""

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return settings


def architecture(folder: Path, settings: dict[str, Any] = SETTINGS, **vision: Any) -> OpenClipModel:
    """Write an open_clip model configuration, with further keys of its vision_cfg; return the model section that names it."""
    path = folder / "small.json"
    path.write_text(json.dumps({"model_cfg": settings | {"vision_cfg": settings["vision_cfg"] | vision}}))
    return OpenClipModel(kind="open_clip", arch=str(path), seed=3)


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


def engine(model: OpenClipModel, zero: int = 0, optimizer: OptimizerConfig = SGD, precision: Dtype = "fp32", **options: Any) -> Engine:
    """Return a model in an engine; every parameter is cut at stage 3."""
    trainable = build_trainable(model, precision=precision, **options)
    compute = TrainCompute.model_validate({"zero": zero, "precision": precision})
    return CutAll(trainable, optimizer, compute, "cpu", 20)


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


def whole_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the 2-norm of the difference of all tensors over that of the expected ones."""
    difference = torch.stack([(found[name].double() - value.double()).norm() for name, value in expected.items()]).norm()
    return float(difference / torch.stack([value.double().norm() for value in expected.values()]).norm())
