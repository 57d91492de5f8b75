"""The options named after upstream's versions give upstream's own values, gradients and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fgray.losses.ce_clip import CeClip
from fgray.losses.features import Features, Inputs
from fgray.losses.negclip import NegClip
from tests.losses.golden import Golden, read_golden

VERSIONS = {"head_77ac78f": "head", "mid_2d07821": "mid", "b8a5244": "b8a5244"}


@pytest.fixture(scope="module")
def golden(data_root: Path) -> dict[str, Golden]:
    return read_golden(data_root / "golden" / "upstream_losses.npz")


def of_version(golden: dict[str, Golden], version: str) -> list[Golden]:
    found = [case for name, case in golden.items() if name.startswith(f"{version}__")]
    assert found, f"no recorded case of {version}"
    return found


def ce_clip_loss(name: str) -> CeClip:
    """Return the loss of a case: VERSION__THRESHOLD__imc?_cmr?_hn?__SIZES."""
    version, threshold, switches, _ = name.split("__")
    imc, cmr, hard = (part[-1] == "1" for part in switches.split("_"))
    if version != "head_77ac78f":
        hard = not hard  # a single process of the two older versions reads the switch the wrong way round
    return CeClip(
        Inputs(texts=4),
        upstream=VERSIONS[version],
        threshold=threshold,
        fixed_threshold=2.0,
        hard_negatives=hard,
        imc=0.3 if imc else 0.0,
        cmr=0.2 if cmr else 0.0,
    )


def features(image: Tensor, text: Tensor, scale: Tensor, mask: Tensor | None = None) -> Features:
    size = len(image)
    negatives = text[size:].reshape(size, -1, text.shape[1])
    return Features(image, text[:size], scale, negative_texts=negatives, text_mask=None if mask is None else mask.bool())


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)


def check_ce_clip(case: Golden) -> None:
    loss = ce_clip_loss(case.name)
    for step in range(len(case["image"])):
        image, text = (case[name][step].clone().requires_grad_() for name in ("image", "text"))
        batch = features(image, text, case["scale"], case["mask"][step])
        total, parts = loss.evaluate(batch)
        close(total, case["total"][step])
        for part in ("imc", "cmr"):
            close(parts.get(part, torch.zeros(())), case[part][step])
        if step == 0:
            total.backward()
            close(image.grad, case["grad_image_step0"])
            close(text.grad, case["grad_text_step0"])
        loss.update(batch)
        if loss.options.cmr:
            close(loss.thresholds, case["threshold_out"][step])


@pytest.mark.parametrize("version", VERSIONS)
def test_ce_clip(golden: dict[str, Golden], version: str) -> None:
    for case in of_version(golden, version):
        check_ce_clip(case)


def test_the_versions_differ(golden: dict[str, Golden]) -> None:
    """Each version's values are matched by its own option only."""
    for version in VERSIONS:
        case = next(case for case in of_version(golden, version) if "mean__imc1_cmr1_hn1" in case.name)
        for other in set(VERSIONS) - {version}:
            with pytest.raises(AssertionError, match="not close"):
                check_ce_clip(Golden(case.name.replace(version, other), case.arrays))


def test_invalid_negatives_are_recorded(golden: dict[str, Golden]) -> None:
    """The recorded masks have holes; otherwise none of this would try them."""
    assert all((case["mask"] == 0).any() for version in VERSIONS for case in of_version(golden, version))


def test_negclip(golden: dict[str, Golden]) -> None:
    cases: Sequence[Golden] = of_version(golden, "negclip")
    for case in cases:
        image, text = (case[name].clone().requires_grad_() for name in ("image", "text"))
        scale = torch.tensor(float(case.name.split("scale")[1].split("_")[0]), dtype=torch.float64)
        total = NegClip(Inputs(texts=1))(features(image, text, scale))
        total.backward()
        close(total, case["total"])
        close(image.grad, case["grad_image"])
        close(text.grad, case["grad_text"])
