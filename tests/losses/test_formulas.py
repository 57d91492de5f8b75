"""Every loss against loops over plain numbers, against counting by hand, and its gradient against differences."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fgray.losses.base import LOSSES, Loss
from fgray.losses.ce_clip import CeClip
from fgray.losses.clip import Clip
from fgray.losses.features import Features, Inputs
from fgray.losses.negclip import NegClip
from fgray.losses.siglip import SigLip
from fgray.losses.spec import Spec
from tests.losses import reference
from tests.losses.cases import INPUTS, LN3, axes, batch, plain

THRESHOLDS = [0.5, 2.0, 7.0]


def build(name: str, **options: Any) -> Loss:
    return LOSSES.get(name)(INPUTS, **options)


def expected(name: str, features: Features, **options: Any) -> float:
    x = plain(features)
    image, text, scale = x["image"], x["text"], x["scale"]
    negatives, mask = x["negative_texts"], x["text_mask"]
    if name == "clip":
        return reference.clip(image, text, scale)
    if name == "siglip":
        return reference.siglip(image, text, scale, x["bias"])
    if name == "negclip":
        return reference.negclip(image, text, scale, negatives, mask)
    if name == "ce_clip":
        first = reference.negclip(image, text, scale, negatives, mask)
        second = reference.imc(text, scale, negatives, mask)
        third = reference.cmr(image, text, scale, negatives, mask, THRESHOLDS)
        return first + options["imc"] * second + options["cmr"] * third
    own = options.get("negatives") == "own"
    total = reference.clip(image, text, scale)
    if options.get("texts", True):
        total += options["mu"] * reference.hard(image, text, scale, negatives, mask, own)
    if options.get("images", True):
        total += options["mu"] * reference.hard(text, image, scale, x["negative_images"], x["image_mask"], own)
    return total


CASES: list[tuple[str, dict[str, Any]]] = [
    ("clip", {}),
    ("siglip", {}),
    ("negclip", {}),
    ("spec", {"mu": 0.7}),
    ("spec", {"mu": 0.7, "negatives": "own"}),
    ("spec", {"mu": 0.7, "images": False}),
    ("spec", {"mu": 0.7, "texts": False}),
    ("ce_clip", {"imc": 0.3, "cmr": 0.2}),
]


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_equals_the_loops(name: str, options: dict[str, Any], scale: float) -> None:
    for seed in range(5):
        loss = build(name, **options)
        if isinstance(loss, CeClip):
            loss.thresholds.copy_(torch.tensor(THRESHOLDS))
        features = batch(seed, size=3 + seed, scale=scale)
        assert loss(features).item() == pytest.approx(expected(name, features, **options), rel=1e-9, abs=1e-9)


UPSTREAM = [{"upstream": version, "hard_negatives": hard} for version in ("head", "mid", "b8a5244") for hard in (True, False)]


@pytest.mark.parametrize(("name", "options"), CASES + [("ce_clip", options) for options in UPSTREAM])
def test_gradients(name: str, options: dict[str, Any]) -> None:
    loss = build(name, **options)
    if isinstance(loss, CeClip):
        loss.thresholds.copy_(torch.tensor(THRESHOLDS))
    start = batch(seed=1, size=3, scale=2.0, dim=3)
    names = ("image", "text", "scale", "bias", "negative_texts", "negative_images")

    def function(*tensors: Tensor) -> Tensor:
        return loss(dataclasses.replace(start, **dict(zip(names, tensors, strict=True))))

    inputs = [getattr(start, field).clone().requires_grad_() for field in names]
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize(("name", "options"), CASES + [("ce_clip", options) for options in UPSTREAM])
def test_is_a_mean_over_rows(name: str, options: dict[str, Any]) -> None:
    """Parts of equal size have the loss of the whole as their mean; what they see is the whole batch."""
    features = batch(seed=2, size=6)
    loss = build(name, **options)
    parts = [loss(dataclasses.replace(features, rows=slice(first, first + 2))) for first in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(features), rtol=1e-12, atol=0)
    assert len({round(part.item(), 6) for part in parts}) == 3


def pair(**negatives: Tensor) -> Features:
    """Two pairs at right angles: image 0 and text 0 along x, image 1 and text 1 along y."""
    return Features(axes(0, 1), axes(0, 1), LN3, **negatives)


def test_clip_by_hand() -> None:
    assert Clip()(pair()).item() == pytest.approx(math.log(4 / 3))  # 3 / (3 + 1) each way


def test_siglip_by_hand() -> None:
    features = dataclasses.replace(pair(), bias=LN3)
    # Own pair: sigmoid(ln 9) = 9/10; the other: sigmoid(-ln 3) = 1/4. Two rows, sum over texts, mean over images.
    assert SigLip(Inputs(bias=True))(features).item() == pytest.approx(math.log(10 / 9) + math.log(4))


def test_negclip_by_hand() -> None:
    # Negatives along y, y: images see 3 + 1 + 1 + 1 and 3 + 1 + 3 + 3; texts 3 + 1.
    features = pair(negative_texts=axes(1, 1)[:, None])
    forth = (math.log(6 / 3) + math.log(10 / 3)) / 2
    assert NegClip(Inputs(texts=1))(features).item() == pytest.approx((forth + math.log(4 / 3)) / 2)


def test_spec_by_hand() -> None:
    # Each pair's negative text is the other's direction, its negative image its own.
    features = pair(negative_texts=axes(1, 0)[:, None], negative_images=axes(0, 1)[:, None])
    inputs = Inputs(texts=1, images=1)
    own = math.log(4 / 3) + 2 * (math.log(5 / 3) + math.log(7 / 3))
    whole = math.log(4 / 3) + 2 * (math.log(8 / 3) + math.log(8 / 3))
    assert Spec(inputs, mu=2.0, negatives="own")(features).item() == pytest.approx(own)
    assert Spec(inputs, mu=2.0)(features).item() == pytest.approx(whole)


def test_ce_clip_by_hand() -> None:
    # Caption 0: negatives along x (3) and y (1), caption 1: the second is not there, the first along x (1).
    negatives = torch.stack([axes(0, 1), axes(0, 0)])
    features = pair(negative_texts=negatives, text_mask=torch.tensor([[True, True], [True, False]]))
    loss = CeClip(Inputs(texts=2), imc=0.5, cmr=0.25)
    total, parts = loss.evaluate(features)
    # Images see the valid negatives x, y, x: image 0: 3 + 1 + 3 + 1 + 3, image 1: 1 + 3 + 1 + 3 + 1.
    itc = ((math.log(11 / 3) + math.log(9 / 3)) / 2 + math.log(4 / 3)) / 2
    imc = (math.log(3 + 1) + math.log(1)) / 2
    assert parts["itc"].item() == pytest.approx(itc)
    assert parts["imc"].item() == pytest.approx(imc)
    assert parts["cmr"].item() == pytest.approx(0)  # thresholds are 0 at first, and no negative beats its caption
    assert total.item() == pytest.approx(itc + 0.5 * imc)
    loss.update(features)
    # Type 0: gaps 0 and ln 3; type 1: ln 3 of sample 0 alone.
    ln3 = LN3.item()
    assert loss.thresholds.tolist() == pytest.approx([ln3 / 2, ln3])
    # Next step: sample 0: ln3/2 - 0 and ln3 - ln3; sample 1: ln3/2 - ln3 < 0.
    assert loss.evaluate(features)[1]["cmr"].item() == pytest.approx(ln3 / 2 / 2)
