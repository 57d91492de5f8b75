"""Decay groups, the schedule and the moving average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fgray.config.train import OptimizerConfig
from fgray.training.optimizer import MovingAverage, decayed, learning_rate, make_optimizer


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("visual.conv1.weight", (8, 3, 4, 4), True),
        ("visual.proj", (8, 4), True),
        ("positional_embedding", (77, 8), True),
        ("token_embedding.weight", (100, 8), True),
        ("transformer.resblocks.0.attn.in_proj_weight", (24, 8), True),
        ("transformer.resblocks.0.attn.in_proj_bias", (24,), False),
        ("visual.class_embedding", (8,), False),
        ("transformer.resblocks.0.ln_1.weight", (8,), False),
        ("visual.bn1.weight", (8,), False),
        ("visual.relative_bias_table", (9, 8), False),
        ("logit_scale", (1,), False),
        ("logit_scale", (1, 1), False),
    ],
)
def test_decay_follows_open_clip(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decayed(name, nn.Parameter(torch.zeros(shape))) is expected


def test_frozen_weights_are_in_no_group() -> None:
    weights = {name: nn.Parameter(torch.ones(2, 2)) for name in ("a.weight", "b.weight", "c.bias")}
    weights["b.weight"].requires_grad_(False)
    optimizer = make_optimizer(weights, OptimizerConfig(weight_decay=0.3))
    groups = [(group["weight_decay"], [id(weight) for weight in group["params"]]) for group in optimizer.param_groups]
    assert groups == [(0.0, [id(weights["c.bias"])]), (0.3, [id(weights["a.weight"])])]


def test_first_adamw_step_by_hand() -> None:
    # After one step both bias-corrected moments are the gradient's: w <- w (1 - lr wd) - lr g / (|g| + eps).
    weights = {"proj": nn.Parameter(torch.tensor([[2.0]])), "logit_scale": nn.Parameter(torch.tensor([2.0]))}
    optimizer = make_optimizer(weights, OptimizerConfig(lr=0.1, weight_decay=0.5, eps=1e-6))
    for weight in weights.values():
        weight.grad = torch.full_like(weight, 0.25)
    optimizer.step()
    assert weights["proj"].item() == pytest.approx(2.0 * (1 - 0.05) - 0.1, abs=1e-6)
    assert weights["logit_scale"].item() == pytest.approx(2.0 - 0.1, abs=1e-6)


def test_sgd_is_plain() -> None:
    weights = {"proj": nn.Parameter(torch.tensor([[2.0]]))}
    optimizer = make_optimizer(weights, OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.5))
    for expected in (2.0 - 0.1 * (1.0 + 0.5 * 2.0), 1.8 - 0.1 * (1.0 + 0.5 * 1.8)):
        weights["proj"].grad = torch.ones(1, 1)
        optimizer.step()
        assert weights["proj"].item() == pytest.approx(expected)


def test_warm_up_and_cosine_by_hand() -> None:
    config = OptimizerConfig(lr=0.8, warmup_steps=4)
    rates = [learning_rate(step, 12, config) for step in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == pytest.approx(0.8)  # progress 0 of 8
    assert rates[8] == pytest.approx(0.4)  # half-way
    assert rates[6] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert rates[11] == pytest.approx(0.4 * (1 + math.cos(math.pi * 7 / 8)))


def test_constant_schedule_and_warm_up_as_long_as_the_training() -> None:
    constant = OptimizerConfig(lr=0.8, warmup_steps=2, schedule="constant")
    assert [learning_rate(step, 5, constant) for step in range(5)] == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8])
    assert [learning_rate(step, 2, OptimizerConfig(lr=0.8, warmup_steps=2)) for step in range(2)] == pytest.approx([0.4, 0.8])
    assert learning_rate(0, 1, OptimizerConfig(lr=0.8, warmup_steps=0)) == pytest.approx(0.8)


def test_moving_average_by_hand() -> None:
    weight = torch.tensor([1.0])
    average = MovingAverage(0.9, {"w": weight})
    weight.fill_(2.0)
    average.update({"w": weight})
    assert average.values["w"].item() == pytest.approx(1.1)
    weight.fill_(3.0)
    average.update({"w": weight})
    assert average.values["w"].item() == pytest.approx(0.9 * 1.1 + 0.3)
