"""FineCLIP's terms against loops, counting by hand, differences and upstream's values; what upstream does wrong stays out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fgray.errors import ConfigError
from fgray.losses.combine import CombinedLoss
from fgray.losses.features import Features, Inputs, concatenate
from fgray.losses.fineclip import FineClip
from fgray.losses.gather import gather
from tests.losses import reference
from tests.losses.cases import LN3, axes
from tests.losses.golden import Golden, read_golden

MOST = 4  # regions of an image
INPUTS = Inputs(regions=MOST)
UPSTREAM = Inputs(regions=MOST, gather="without_grad")
TENSORS = ("image", "text", "scale", "roi", "crop", "region_text")


def regions(seed: int, count: int, size: int = 3, scale: float = 14.3, dim: int = 5) -> Features:
    """Return random float64 features of `size` pairs with `count` regions; captions repeat."""
    rng = torch.Generator().manual_seed(seed)

    def unit(rows: int) -> Tensor:
        return F.normalize(torch.randn(rows, dim, generator=rng, dtype=torch.float64), dim=-1)

    image, text, roi, crop = unit(size), unit(size), unit(count), unit(count)
    texts = torch.randint(0, 3, (count,), generator=rng)
    return Features(image, text, torch.tensor(scale, dtype=torch.float64), None, None, None, None, None, roi, crop, unit(3)[texts], texts)


def expected(features: Features, sd: float = 1.0, rc: float = 1.0, repeated: bool = True) -> float:
    scale = float(features.scale)
    image, text, roi, crop, captions = (getattr(features, name).tolist() for name in ("image", "text", "roi", "crop", "region_text"))
    texts = None if repeated else features.region_texts.tolist()
    parts = (reference.clip(image, text, scale), reference.distillation(roi, crop), reference.regions(roi, captions, scale, texts))
    return parts[0] + sd * parts[1] + rc * parts[2]


# --- values and gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeated", [True, False])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_equals_the_loops(scale: float, repeated: bool) -> None:
    for seed, count in enumerate([0, 1, 2, 7, 11]):
        features = regions(seed, count, scale=scale)
        loss = FineClip(INPUTS, sd=0.3, rc=2.0, repeated=repeated)
        assert loss(features).item() == pytest.approx(expected(features, 0.3, 2.0, repeated), rel=1e-9, abs=1e-9)


def test_upstream_equals_the_loops() -> None:
    features = regions(3, 7)
    parts = FineClip(UPSTREAM, upstream=True).evaluate(features)[1]
    roi, crop, captions = (getattr(features, name).tolist() for name in ("roi", "crop", "region_text"))
    assert parts["sd"].item() == pytest.approx(reference.distillation(roi, crop))
    assert parts["rc"].item() == pytest.approx(reference.regions_with_zeros(roi, captions, 14.3, 3 * MOST))


@pytest.mark.parametrize("options", [{}, {"repeated": False}, {"upstream": True}, {"terms": "sd"}, {"terms": "gc+rc", "rc": 0.5}])
def test_gradients(options: dict[str, object]) -> None:
    start = regions(1, 4, scale=2.0, dim=3)
    loss = FineClip(UPSTREAM if "upstream" in options else INPUTS, **options)

    def function(*tensors: Tensor) -> Tensor:
        return loss(dataclasses.replace(start, **dict(zip(TENSORS, tensors, strict=True))))

    assert torch.autograd.gradcheck(function, [getattr(start, name).clone().requires_grad_() for name in TENSORS])


@pytest.mark.parametrize("options", [{}, {"repeated": False}])
def test_without_regions_nothing_is_added_and_all_have_a_gradient(options: dict[str, bool]) -> None:
    features = regions(0, 0)
    leaves = {name: getattr(features, name).clone().requires_grad_() for name in TENSORS}
    total, parts = FineClip(INPUTS, **options).evaluate(dataclasses.replace(features, **leaves))
    assert parts["sd"].item() == parts["rc"].item() == 0
    total.backward()
    assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves.values())


def test_by_hand() -> None:
    # Regions x, x, y with captions x, x, y; crops x, y, y: cosines 1, 0, 1.
    features = Features(axes(0, 1), axes(0, 1), LN3, roi=axes(0, 0, 1), crop=axes(0, 1, 1), region_text=axes(0, 0, 1))
    features = dataclasses.replace(features, region_texts=torch.tensor([5, 5, 9]))
    parts = FineClip(INPUTS).evaluate(features)[1]
    assert parts["gc"].item() == pytest.approx(math.log(4 / 3))
    assert parts["sd"].item() == pytest.approx(1 / 3)
    assert parts["rc"].item() == pytest.approx((2 * math.log(7 / 3) + math.log(5 / 3)) / 3)  # 3 + 3 + 1 twice, 1 + 1 + 3
    alone = FineClip(INPUTS, repeated=False).evaluate(features)[1]
    assert alone["rc"].item() == pytest.approx((2 * math.log(4 / 3) + math.log(5 / 3)) / 3)  # 3 + 1 twice: the equal caption is out


def test_parts_of_the_rows_have_the_loss_as_their_mean() -> None:
    """What local gathering relies on: unequal numbers of regions, none in the last part."""
    features = regions(4, 7, size=6)
    cuts = [slice(0, 5), slice(5, 7), slice(7, 7)]
    rows = [slice(first, first + 2) for first in (0, 2, 4)]
    for options in ({}, {"repeated": False}):
        loss = FineClip(INPUTS, **options)
        parts = [loss(dataclasses.replace(features, rows=row, own_regions=cut)) for row, cut in zip(rows, cuts, strict=True)]
        torch.testing.assert_close(torch.stack(parts).mean(), loss(features), rtol=1e-12, atol=0)


def test_micro_batches_join() -> None:
    whole = regions(2, 7, size=4)
    cuts = [(slice(0, 2), slice(0, 6)), (slice(2, 4), slice(6, 7))]
    parts = [
        dataclasses.replace(
            whole,
            image=whole.image[rows],
            text=whole.text[rows],
            **{name: getattr(whole, name)[own] for name in ("roi", "crop", "region_text", "region_texts")},
        )
        for rows, own in cuts
    ]
    joined = concatenate(parts)
    assert FineClip(INPUTS, repeated=False)(joined).item() == FineClip(INPUTS, repeated=False)(whole).item()
    assert gather(joined, "local").own_regions == slice(None)


# --- upstream's own values ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(data_root: Path) -> list[Golden]:
    return list(read_golden(data_root / "golden" / "upstream_fineclip.npz").values())


def recorded(case: Golden) -> tuple[Features, dict[str, Tensor]]:
    """Return the recorded features, and those inputs whose gradients are recorded."""
    leaves = {name: case[name].clone().requires_grad_() for name in ("roi", "crop")}
    of_regions = {name: F.normalize(leaves.get(name, case[name]), dim=-1) for name in ("roi", "crop", "region_text")}
    return Features(case["image"], case["text"], case["scale"], **of_regions), leaves


def test_upstream_gives_upstreams_values_and_gradients(golden: list[Golden]) -> None:
    assert len(golden) == 2
    for case in golden:
        features, leaves = recorded(case)
        total, parts = FineClip(UPSTREAM, upstream=True).evaluate(features)
        for part, name in (("gc", "global_itc"), ("sd", "distill"), ("rc", "region_itc")):
            torch.testing.assert_close(parts[part], case[name], rtol=1e-5, atol=1e-5)
        total.backward()
        for name, leaf in leaves.items():
            torch.testing.assert_close(leaf.grad, case[f"grad_{name}"], rtol=1e-5, atol=1e-5)


def test_rows_of_zeros_dilute_only_upstream(golden: list[Golden]) -> None:
    """Facts, bug 3: upstream's mean is over 12 rows, of which the M regions are some; the rest are log 12 each."""
    for case in golden:
        features, _ = recorded(case)
        ours = FineClip(INPUTS).evaluate(features)[1]["rc"]
        roi, captions = (getattr(features, name).tolist() for name in ("roi", "region_text"))
        assert ours.item() == pytest.approx(reference.regions(roi, captions, 50.0))
        assert abs(ours.item() - case["region_itc"].item()) > 0.1


# --- more of upstream's defects ------------------------------------------------------------------------------------------


def test_equal_captions_need_not_be_wrong_answers() -> None:
    """Facts, bug 5: with one caption for all regions upstream's L_RC cannot fall below log M; ours, told so, is 0."""
    features = regions(0, 6)
    same = dataclasses.replace(features, region_text=features.roi[:1].repeat(6, 1), roi=features.roi[:1].repeat(6, 1))
    same = dataclasses.replace(same, region_texts=torch.zeros(6, dtype=torch.int64))
    assert FineClip(INPUTS, terms="rc").forward(same).item() == pytest.approx(math.log(6))
    assert FineClip(INPUTS, terms="rc", repeated=False).forward(same).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_not_computed_in_16_bits(dtype: torch.dtype) -> None:
    """Facts, bug 11: logits of 100 in fp16 have steps of 0.06."""
    exact = regions(5, 7, scale=100.0)
    rounded = {name: getattr(exact, name).to(dtype) for name in TENSORS}
    low = dataclasses.replace(exact, **rounded)
    high = dataclasses.replace(exact, **{name: value.double() for name, value in rounded.items()})
    assert FineClip(INPUTS)(low).item() == pytest.approx(FineClip(INPUTS)(high).item(), rel=1e-5)


# --- options ------------------------------------------------------------------------------------------------------------


def test_terms_are_a_switch() -> None:
    features = regions(1, 5)
    whole = FineClip(INPUTS).evaluate(features)[1]
    for terms, needs in (
        ("gc", set()),
        ("gc+sd", {"roi", "crop"}),
        ("rc+gc", {"roi", "region_text"}),
        ("gc+sd+rc", {"roi", "crop", "region_text"}),
    ):
        loss = FineClip(INPUTS, terms=terms)
        parts = loss.evaluate(features)[1]
        assert {name: part.item() for name, part in parts.items()} == {name: whole[name].item() for name in terms.split("+")} and (
            list(parts) == sorted(parts, key=["gc", "sd", "rc"].index)
        )
        assert loss.needs == needs


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (Inputs(), {}, "loss 'fineclip' needs"),
        (Inputs(), {"terms": "rc"}, "add the section regions"),
        (INPUTS, {"terms": "gc+dd"}, "wrong option terms for fineclip"),
        (INPUTS, {"terms": ""}, "wrong option terms for fineclip"),
        (INPUTS, {"terms": "gc+gc"}, "wrong option terms for fineclip"),
        (INPUTS, {"upstream": True}, "upstream does not go with gather with_grad"),
        (UPSTREAM, {"upstream": True, "repeated": False}, "has no repeated: false"),
        (INPUTS, {"lambda": 1}, "has no option 'lambda'"),
    ],
)
def test_refused_in_one_line(inputs: Inputs, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FineClip(inputs, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_global_contrast_alone_needs_no_regions() -> None:
    features = regions(1, 0)
    assert FineClip(terms="gc")(Features(features.image, features.text, features.scale)).item() > 0


def test_the_log_says_what_upstreams_gathering_does() -> None:
    from fgray.config.train import LossConfig

    plain = CombinedLoss([LossConfig(name="fineclip", sd=0.5)], Inputs(regions=MOST, gather="without_grad"))
    assert plain.effective_weights(0, "without_grad", 8)["fineclip/sd"]["towers"] == 0.5 / 8
    theirs = CombinedLoss([LossConfig(name="fineclip", upstream=True)], UPSTREAM)
    weights = {name: weight["towers"] for name, weight in theirs.effective_weights(0, "without_grad", 8).items()}
    assert weights == {"fineclip/gc": 1 / 8, "fineclip/sd": 1.0, "fineclip/rc": 1 / 8}
    assert theirs.weights_line(0, "without_grad", 8) == (
        "gather without_grad on 8 ranks, weights: fineclip/gc 0.125, fineclip/sd 1, fineclip/rc 0.125 "
        "(1/8 of the nominal ones, which the logit scale and fineclip/sd keep)"
    )
