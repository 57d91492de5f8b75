"""Thresholds of CE-CLIP, and what happens where negatives are missing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fgray.losses.base import LOSSES, Loss
from fgray.losses.ce_clip import CeClip
from fgray.losses.features import Features, Inputs
from tests.losses import reference
from tests.losses.cases import INPUTS, batch, plain


def test_thresholds_follow_the_last_step() -> None:
    """Three steps against the loops: the loss of a step uses what the step before left behind."""
    loss = CeClip(INPUTS, imc=0.0, cmr=1.0, hard_negatives=False, upper_bound=5.0)
    last = [0.0, 0.0, 0.0]
    for seed in range(3):
        features = batch(seed, size=5, scale=30.0)
        x = plain(features)
        arguments = (x["image"], x["text"], x["scale"], x["negative_texts"], x["text_mask"])
        for _ in range(2):  # computing the loss twice changes nothing
            assert loss.evaluate(features)[1]["cmr"].item() == pytest.approx(reference.cmr(*arguments, last))
        loss.update(features)
        last = reference.thresholds(*arguments, last, 5.0)
        assert loss.thresholds.tolist() == pytest.approx(last)
    assert max(last) == 5.0 and len(set(last)) > 1  # the bound was tried


def test_thresholds_lie_between_zero_and_the_bound() -> None:
    features = batch(0, size=6, scale=100.0)
    for upper in (2.0, 5.0):
        loss = CeClip(INPUTS, upper_bound=upper)
        loss.update(features)
        assert loss.thresholds.max() == upper
    flipped = dataclasses.replace(features, image=-features.image, text=features.text)
    gaps = [CeClip(INPUTS, upper_bound=1e9) for _ in range(2)]
    for loss, some in zip(gaps, (features, flipped), strict=True):
        loss.update(some)
    assert bool(((gaps[0].thresholds > 0) ^ (gaps[1].thresholds > 0)).all())  # a gap or its opposite is negative, and becomes 0


@pytest.mark.parametrize(
    ("upstream", "kind", "expected"), [(None, "mean", 5.0), ("head", "mean", 5.0), (None, "max", 5.0), ("head", "max", 0.0)]
)
def test_a_type_that_is_absent_keeps_its_threshold(upstream: str | None, kind: str, expected: float) -> None:
    """But for upstream's max, which is 0 there."""
    features = batch(0)
    assert features.text_mask is not None
    mask = features.text_mask.clone()
    mask[:, 1] = False
    loss = CeClip(INPUTS, upstream=upstream, threshold=kind)
    loss.thresholds.copy_(torch.tensor([4.0, 5.0, 6.0]))
    loss.update(dataclasses.replace(features, text_mask=mask))
    assert loss.thresholds[1] == expected
    assert loss.thresholds[0] != 4.0


def test_other_kinds_of_threshold() -> None:
    features = batch(3, size=6, scale=20.0)
    x = plain(features)
    fixed = CeClip(INPUTS, threshold="fixed", fixed_threshold=2.0, imc=0.0, cmr=1.0)
    fixed.update(features)
    assert fixed.thresholds.tolist() == [2.0] * 3
    expected = reference.cmr(x["image"], x["text"], x["scale"], x["negative_texts"], x["text_mask"], [2.0] * 3)
    assert fixed.evaluate(features)[1]["cmr"].item() == pytest.approx(expected)
    largest = CeClip(INPUTS, threshold="max", upper_bound=1e9)
    largest.update(features)
    for k in range(3):
        gaps = [
            x["scale"] * (reference.dot(x["image"][i], x["text"][i]) - reference.dot(x["image"][i], x["negative_texts"][i][k]))
            for i in range(6)
            if x["text_mask"][i][k]
        ]
        assert largest.thresholds[k].item() == pytest.approx(max(0.0, max(gaps) / 5))


def test_thresholds_are_state() -> None:
    loss, other = CeClip(INPUTS), CeClip(INPUTS)
    loss.update(batch(0))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.thresholds, loss.thresholds)
    assert loss.thresholds.any()


def no_negatives(features: Features) -> Features:
    assert features.negative_texts is not None and features.negative_images is not None
    assert features.text_mask is not None and features.image_mask is not None
    return dataclasses.replace(
        features,
        negative_texts=torch.zeros_like(features.negative_texts),
        text_mask=torch.zeros_like(features.text_mask),
        negative_images=torch.zeros_like(features.negative_images),
        image_mask=torch.zeros_like(features.image_mask),
    )


def test_without_negatives_their_terms_are_zero() -> None:
    features = no_negatives(batch(0))
    loss = CeClip(INPUTS)
    loss.thresholds.fill_(3.0)
    _, parts = loss.evaluate(features)
    assert parts["imc"] == 0 and parts["cmr"] == 0
    torch.testing.assert_close(parts["itc"], LOSSES.get("clip")()(features))
    loss.update(features)
    assert loss.thresholds.tolist() == [3.0] * 3


@pytest.mark.parametrize("name", ["negclip", "spec", "ce_clip"])
def test_without_negatives_gradients_are_finite(name: str) -> None:
    features = no_negatives(batch(0))
    leaves = {field: getattr(features, field).clone().requires_grad_() for field in ("image", "text", "scale", "negative_texts")}
    loss: Loss = LOSSES.get(name)(INPUTS)
    value = loss(dataclasses.replace(features, **leaves))
    value.backward()
    assert value.isfinite()
    gradients = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
    assert len(gradients) >= 3 and all(gradient.isfinite().all() for gradient in gradients)


def test_no_mask_means_all_are_there() -> None:
    features = batch(0)
    everywhere = torch.ones(4, 3, dtype=torch.bool)
    for upstream in (None, "head"):
        loss = CeClip(Inputs(texts=3), upstream=upstream)
        torch.testing.assert_close(
            loss(dataclasses.replace(features, text_mask=None)), loss(dataclasses.replace(features, text_mask=everywhere))
        )
