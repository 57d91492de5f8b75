"""The model's forward pass against evaluation, its clamp, freezing, dropout, batch norms and activation checkpointing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fgray.config.schema import PythonModel, TinyModel
from fgray.errors import ConfigError
from fgray.models import open_model
from fgray.training.model import Trainable, build_trainable
from tests.training.small import NEGATIVE_IMAGES, NEGATIVE_TEXTS, PAIRS, architecture, batch, relative_error

TINY = TinyModel(kind="tiny", seed=3)
RESNET: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def run(trainable: Trainable) -> dict[str, Tensor]:
    whole = batch(0)
    tokens = trainable.tokens(whole.texts)
    inputs = [torch.from_numpy(whole.images), tokens, whole.size, torch.from_numpy(whole.text_index), torch.from_numpy(whole.image_index)]
    return trainable.module(*inputs)


def test_features_are_those_of_evaluation_in_their_places() -> None:
    trainable, encoder, whole = build_trainable(TINY), open_model(TINY).load("cpu"), batch(0)
    images, texts = encoder.embed_images(whole.images), encoder.embed_texts(whole.texts).values
    output = {name: value.detach().numpy() for name, value in run(trainable).items()}
    assert set(output) == {"image", "text", "scale", "negative_texts", "negative_images"}
    np.testing.assert_allclose(output["image"], images[:PAIRS], atol=2e-6)
    np.testing.assert_allclose(output["text"], texts[:PAIRS], atol=2e-6)
    for name, index, rows, count in (
        ("negative_texts", whole.text_index, texts, NEGATIVE_TEXTS),
        ("negative_images", whole.image_index, images, NEGATIVE_IMAGES),
    ):
        assert output[name].shape == (PAIRS, count, 32)
        assert (index < 0).any() and (index >= 0).any()
        for pair in range(PAIRS):
            for column in range(count):
                place = index[pair, column]
                expected = rows[place] if place >= 0 else np.zeros(32)
                np.testing.assert_allclose(output[name][pair, column], expected, atol=2e-6)


def test_tokens_and_fingerprint_are_those_of_evaluation() -> None:
    trainable, source = build_trainable(TINY), open_model(TINY)
    assert trainable.fingerprint == source.fingerprint()
    tokens = trainable.tokens(["a cat", "word " * 100])
    assert tokens.shape == (2, 77) and tokens.dtype == torch.int64
    assert tokens[0, :4].tolist() == [49406, 320, 2368, 49407] and tokens[0, 4:].eq(0).all()
    assert tokens[1, -1] == 49407  # a text that is cut still ends


@pytest.mark.parametrize(
    ("start", "descent", "moves"),
    [(math.log(14), "up", True), (math.log(14), "down", True), (4.7, "up", False), (4.7, "down", True)],
)
def test_logit_scale_is_bounded_but_never_stuck(start: float, descent: str, moves: bool) -> None:
    trainable = build_trainable(TINY)
    weight = trainable.module.named_weights()["logit_scale"]
    with torch.no_grad():
        weight.fill_(start)
    scale = run(trainable)["scale"]
    assert scale.item() == pytest.approx(min(math.exp(start), 100.0), rel=1e-6)
    (scale if descent == "down" else -scale).backward()
    assert weight.grad is not None
    assert bool(weight.grad.abs().sum() > 0) is moves
    if moves:
        assert (weight.grad.item() > 0) is (descent == "down")


def test_freezing_by_pattern() -> None:
    trainable = build_trainable(TINY, freeze=["visual.*", "*.ln_1.bias"])
    frozen = {name for name, weight in trainable.module.named_weights().items() if not weight.requires_grad}
    every = set(trainable.module.named_weights())
    assert frozen == {name for name in every if name.startswith("visual.") or name.endswith(".ln_1.bias")}
    assert {"visual.proj", "transformer.resblocks.1.ln_1.bias"} < frozen


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["visaul.*"], "did you mean 'visual.*'"),
        (["logit_scal"], "did you mean 'logit_scale'"),
        (["visual.*", "Visual.proj"], "pattern 'Visual.proj' matches no parameter"),
        (["*"], "nothing is left to train"),
    ],
)
def test_a_wrong_pattern_is_refused(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_trainable(TINY, freeze=patterns)
    assert message in str(error.value)


def test_other_kinds_are_refused() -> None:
    config = PythonModel(kind="python", path="tests.models.own_encoder:OwnEncoder")
    with pytest.raises(ConfigError, match="cannot be trained"):
        build_trainable(config)


def test_batch_norms_keep_their_statistics(tmp_path: Path) -> None:
    trainable = build_trainable(architecture(tmp_path, RESNET))
    trainable.module.train()
    norms = {name: module for name, module in trainable.module.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms
    before = {name: module.running_mean.clone() for name, module in norms.items() if module.running_mean is not None}
    output = run(trainable)
    output["image"].square().sum().backward()
    assert all(torch.equal(norms[name].running_mean, value) for name, value in before.items())  # type: ignore[arg-type]


@pytest.mark.parametrize("dropout", [False, True])
def test_dropout_only_where_it_is_wanted(dropout: bool, tmp_path: Path) -> None:
    trainable = build_trainable(architecture(tmp_path, patch_dropout=0.5), dropout=dropout)
    first, second = run(trainable)["image"], run(trainable)["image"]
    assert torch.equal(first, second) is not dropout


def gradients(trainable: Trainable) -> dict[str, Tensor]:
    torch.manual_seed(0)
    output = run(trainable)
    logits = output["scale"] * output["image"] @ output["text"].T
    nn.functional.cross_entropy(logits, torch.arange(PAIRS)).backward()
    return {name: weight.grad for name, weight in trainable.module.named_weights().items() if weight.grad is not None}


@pytest.mark.parametrize("dropout", [False, True])
def test_activation_checkpointing_is_exact(dropout: bool, tmp_path: Path) -> None:
    config = architecture(tmp_path, patch_dropout=0.5)
    expected = gradients(build_trainable(config, dropout=dropout))
    trainable = build_trainable(config, dropout=dropout, activation_checkpointing=True)
    runs: list[str] = []
    for name, module in trainable.module.named_modules():
        if name.endswith("resblocks.0.mlp.c_fc"):
            module.register_forward_hook(lambda *_, name=name: runs.append(name))
    found = gradients(trainable)
    assert len(runs) == 4  # each tower's layer runs again in the backward pass
    assert relative_error(found, expected) <= 1e-6


def test_bf16_weights_stay_fp32() -> None:
    trainable = build_trainable(TINY, precision="bf16")
    exact, rounded = run(build_trainable(TINY))["image"], run(trainable)["image"]
    assert rounded.dtype == torch.float32
    assert {weight.dtype for weight in trainable.module.parameters()} == {torch.float32}
    error = float((exact - rounded).detach().norm() / exact.detach().norm())
    assert 1e-5 < error < 3e-2
