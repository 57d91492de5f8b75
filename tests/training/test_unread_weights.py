"""A tower that no loss reads: weight decay moves it at every ZeRO stage and number of workers alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fgray.config.schema import OpenClipModel
from fgray.config.train import OptimizerConfig
from fgray.losses.features import Features
from fgray.training.state import WEIGHT, gather_state
from fgray.training.step import StepOptions, train_step
from fgray.training.tensors import prepare
from tests.training.grouped import run_group
from tests.training.small import architecture, batch, engine, part_of_rank

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, RATE, DECAY = 3, 0.5, 0.1
STAGES = [0, 1, 2, 3]
SGD = OptimizerConfig(name="sgd", lr=RATE, weight_decay=DECAY, warmup_steps=0, schedule="constant", clip_grad_norm=None)


class OfImages:
    """A loss of images alone."""

    def __call__(self, features: Features, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        total = 0.01 * features.image[:, 0].mean()
        return total, {"images": total.detach()}

    def update(self, features: Features) -> None:
        pass


def trained(model: OpenClipModel) -> list[dict[str, Tensor]]:
    """Return the weights of the text tower before the training, and after it at every stage."""
    found = []
    for zero in STAGES:
        one = engine(model, zero, SGD)
        if not found:
            found.append(texts_of(gather_state(one)))
        for step in range(STEPS):
            train_step(one, OfImages(), prepare(part_of_rank(batch(step), one.rank, one.world), one.trainable), step, StepOptions())
        found.append(texts_of(gather_state(one)))
        one.close()
    return found


def texts_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = [name for name in state if name.startswith(WEIGHT)]
    return {name.removeprefix(WEIGHT): state[name].clone() for name in names if not name.removeprefix(WEIGHT).startswith("visual.")}


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.chaos), 2])
def test_decay_is_the_same_everywhere(tmp_path: Path, world: int) -> None:
    before, *after = run_group(trained, world, tmp_path / "group", architecture(tmp_path))[0]
    assert {"positional_embedding", "text_projection", "ln_final.weight", "logit_scale"} <= before.keys()
    for zero, weights in zip(STAGES, after, strict=True):
        for name, value in weights.items():
            kept = (1 - RATE * DECAY) ** STEPS if value.ndim >= 2 else 1.0  # gains, biases and scalars have no decay
            torch.testing.assert_close(value, before[name] * kept, rtol=1e-5, atol=1e-7, msg=f"{name} at stage {zero}")
