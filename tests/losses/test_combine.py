"""Terms add up with their weights; what cannot work is refused in one line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fgray.config.train import LossConfig
from fgray.errors import ConfigError
from fgray.losses.base import LOSSES
from fgray.losses.combine import CombinedLoss
from fgray.losses.features import Features, Inputs, concatenate
from fgray.losses.gather import gather
from fgray.registry import options_of
from tests.losses.cases import INPUTS, batch


def combined(*configs: dict[str, Any], inputs: Inputs = INPUTS) -> CombinedLoss:
    return CombinedLoss([LossConfig(**config) for config in configs], inputs)


def test_terms_add_up() -> None:
    features = batch(0)
    loss = combined({"name": "clip", "weight": 0.5}, {"name": "ce_clip", "weight": 2.0, "imc": 0.3, "cmr": 0.1})
    total, terms = loss(features, step=0)
    assert list(terms) == ["clip", "ce_clip", "ce_clip/itc", "ce_clip/imc", "ce_clip/cmr"]
    assert not any(term.requires_grad for term in terms.values())
    torch.testing.assert_close(total, 0.5 * terms["clip"] + 2.0 * terms["ce_clip"])
    torch.testing.assert_close(terms["ce_clip"], terms["ce_clip/itc"] + 0.3 * terms["ce_clip/imc"] + 0.1 * terms["ce_clip/cmr"])
    torch.testing.assert_close(terms["clip"], LOSSES.get("clip")()(features))


def test_warm_up_is_linear_from_zero() -> None:
    features = batch(0)
    loss = combined({"name": "clip"}, {"name": "negclip", "weight": 3.0, "warmup_steps": 4})
    weights = [loss.weight("negclip", step) for step in range(6)]
    assert weights == [0, 0.75, 1.5, 2.25, 3, 3]
    for step, weight in enumerate(weights):
        total, terms = loss(features, step)
        torch.testing.assert_close(total, terms["clip"] + weight * terms["negclip"])


def test_effective_weights() -> None:
    loss = combined({"name": "siglip", "weight": 0.5}, {"name": "spec", "mu": 0.2, "weight": 2.0, "warmup_steps": 2})
    exact = {
        "siglip": {"towers": 0.5, "scale": 0.5},
        "spec/clip": {"towers": 1.0, "scale": 1.0},
        "spec/i2t": {"towers": 0.2, "scale": 0.2},
        "spec/t2i": {"towers": 0.2, "scale": 0.2},
    }
    assert loss.effective_weights(1, "with_grad", 4) == loss.effective_weights(1, "local", 4) == exact
    without = loss.effective_weights(1, "without_grad", 4)
    assert {name: weight["scale"] for name, weight in without.items()} == {name: weight["scale"] for name, weight in exact.items()}
    assert all(math.isclose(weight["towers"], exact[name]["towers"] / 4) for name, weight in without.items())
    assert loss.weights_line(1, "local", 2) == "gather local on 2 ranks, weights: siglip 0.5, spec/clip 1, spec/i2t 0.2, spec/t2i 0.2"
    assert "1/4" in loss.weights_line(1, "without_grad", 4)


def test_state_is_that_of_the_terms() -> None:
    first, second = (combined({"name": "clip"}, {"name": "ce_clip"}) for _ in range(2))
    assert list(first.state_dict()) == ["terms.ce_clip.thresholds"]
    first.update(batch(0))
    second.load_state_dict(first.state_dict())
    features = batch(1)
    assert torch.equal(first(features, 3)[0], second(features, 3)[0])
    assert not torch.equal(first(features, 3)[0], combined({"name": "clip"}, {"name": "ce_clip"})(features, 3)[0])


@pytest.mark.parametrize(
    ("configs", "inputs", "message"),
    [
        ([{"name": "clip"}, {"name": "clip"}], INPUTS, "loss 'clip' stands twice"),
        ([{"name": "negclipp"}], INPUTS, "did you mean 'negclip'?"),
        ([{"name": "spec", "muu": 1}], INPUTS, "loss 'spec' has no option 'muu'"),
        ([{"name": "spec", "mu": "much"}], INPUTS, "wrong option mu for spec"),
        ([{"name": "spec", "texts": False, "images": False}], INPUTS, "take the loss clip"),
        ([{"name": "ce_clip", "upstream": "tail"}], INPUTS, "wrong option upstream for ce_clip"),
        ([{"name": "ce_clip"}], Inputs(images=2, bias=True), "loss 'ce_clip' needs negative texts, which this run does not bring"),
        ([{"name": "negclip"}], Inputs(), "set negatives.texts"),
        ([{"name": "spec"}], Inputs(texts=1), "loss 'spec' needs negative images"),
        ([{"name": "spec", "texts": False}], Inputs(texts=1), "loss 'spec' needs negative images"),
        ([{"name": "siglip"}], Inputs(texts=1), "loss 'siglip' needs a logit bias"),
    ],
)
def test_refused_in_one_line(configs: list[dict[str, Any]], inputs: Inputs, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        combined(*configs, inputs=inputs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["siglip", "negclip", "spec", "ce_clip"])
def test_a_batch_without_what_it_needs_is_refused(name: str) -> None:
    full = batch(0)
    bare = Features(full.image, full.text, full.scale)
    with pytest.raises(ConfigError, match=f"loss '{name}' needs .* the batch does not bring"):
        LOSSES.get(name)(INPUTS)(bare)


def test_needs() -> None:
    assert combined({"name": "clip"}).needs == frozenset()
    assert combined({"name": "siglip"}, {"name": "spec"}).needs == {"bias", "negative_texts", "negative_images"}
    assert combined({"name": "spec", "images": False}).needs == {"negative_texts"}


@pytest.fixture
def low_precision() -> Iterator[Features]:
    full = batch(0)
    yield dataclasses.replace(
        full, **{name: getattr(full, name).bfloat16() for name in ("image", "text", "scale", "bias", "negative_texts", "negative_images")}
    )


@pytest.mark.parametrize("name", ["clip", "siglip", "negclip", "spec", "ce_clip"])
def test_16_bit_features_are_summed_in_32(name: str, low_precision: Features) -> None:
    loss = LOSSES.get(name)(INPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(low_precision)
        loss.update(low_precision)
    other = LOSSES.get(name)(INPUTS)
    exact = other(low_precision.full_precision())
    other.update(low_precision.full_precision())
    assert value.dtype == torch.float32 and torch.equal(value, exact)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loss.buffers(), other.buffers(), strict=True))


def test_options_are_listed_with_their_meaning() -> None:
    for name in LOSSES.names():
        assert all(row["meaning"] for row in options_of(LOSSES.get(name)))
    assert {row["option"] for row in options_of(LOSSES.get("spec"))} == {"mu", "negatives", "texts", "images"}


def test_micro_batches_come_together() -> None:
    whole, first, second = batch(0, size=5), batch(1, size=2), batch(2, size=3)
    joined = concatenate([first, second])
    assert joined.size == whole.size
    assert torch.equal(joined.text[2:], second.text) and torch.equal(joined.text[:2], first.text)
    assert joined.image_mask is not None and second.image_mask is not None
    assert torch.equal(joined.image_mask[2:], second.image_mask)
    assert concatenate([Features(first.image, first.text, first.scale)]).negative_texts is None


@pytest.mark.parametrize("mode", ["with_grad", "without_grad", "local"])
def test_gathering_on_one_process_changes_nothing(mode: Any) -> None:
    features = batch(0)
    gathered = gather(features, mode)
    assert gathered.image is features.image and gathered.negative_images is features.negative_images
    assert gathered.rows == slice(None)
