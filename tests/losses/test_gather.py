"""In real groups of 2 and 3 processes, gradients averaged over ranks are those of one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch.multiprocessing as mp

from fgray.losses.clip import clip_loss
from fgray.losses.features import Features
from fgray.losses.fineclip import region_contrast, self_distillation
from tests.losses.ranks import LOSSES, MODES, STEPS, Towers, data_of, part_of_rank, run_rank, train

Found = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Found]]:
    """Return what each rank found, for groups of 2 and 3."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(str(folder),), nprocs=3)
    return {world: [read(folder / f"{world}-{rank}.npz") for rank in range(world)] for world in (2, 3)}


def read(path: Path) -> Found:
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


@pytest.fixture(scope="module")
def alone() -> dict[str, Found]:
    return {case: train(case, "with_grad", rank=0, world=1) for case in LOSSES}


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12))


PARAMETERS = ("image", "text", "logit_scale", "bias")


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", LOSSES)
def test_gradients(groups: dict[int, list[Found]], alone: dict[str, Found], case: str, mode: str, world: int) -> None:
    for step in range(STEPS):
        for name in PARAMETERS:
            exact = alone[case][f"{case}/with_grad/{step}/grad/{name}"]
            # without_grad: the towers get 1/W of the exact gradient, the scale and the bias all of it.
            effective = 1 / world if mode == "without_grad" and name in ("image", "text") else 1.0
            for found in groups[world]:
                assert relative(found[f"{case}/{mode}/{step}/grad/{name}"], effective * exact) < 1e-9


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", LOSSES)
def test_losses(groups: dict[int, list[Found]], alone: dict[str, Found], case: str, mode: str, world: int) -> None:
    for step in range(STEPS):
        key = f"{case}/{mode}/{step}/loss"
        losses = [found[key] for found in groups[world]]
        exact = alone[case][f"{case}/with_grad/{step}/loss"]
        assert relative(np.mean(losses), exact) < 1e-9
        if mode == "local":
            assert np.ptp(losses) > 0 or exact == 0  # a rank sees its own rows
        else:
            assert np.ptp(losses) == 0


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_thresholds_are_those_of_one_process(groups: dict[int, list[Found]], alone: dict[str, Found], mode: str, world: int) -> None:
    checked = 0
    for case in LOSSES:
        for key, exact in alone[case].items():
            if "/state/" not in key:
                continue
            states = [found[key.replace("/with_grad/", f"/{mode}/")] for found in groups[world]]
            assert all(np.array_equal(state, states[0]) for state in states)
            np.testing.assert_allclose(states[0], exact, rtol=1e-9)
            checked += 1
    assert checked == 6 * STEPS


def test_the_cases_try_something(alone: dict[str, Found]) -> None:
    """Gradients of the references are not all zero, and thresholds move."""
    for case, found in alone.items():
        for name in PARAMETERS[:3]:
            assert np.abs(found[f"{case}/with_grad/2/grad/{name}"]).max() > 1e-3
    thresholds = [alone["ce_clip"][f"ce_clip/with_grad/{step}/state/terms.ce_clip.thresholds"] for step in range(STEPS)]
    assert not np.array_equal(thresholds[0], thresholds[1])


@pytest.mark.parametrize("world", [2, 3])
def test_upstreams_fineclip(groups: dict[int, list[Found]], world: int) -> None:
    """The contrasts reach the towers with 1/W of their weight; the distillation is the mean over ranks of their own means."""
    for step in range(STEPS):
        gradients = []
        for with_contrasts in (True, False):
            towers = Towers()
            if with_contrasts:
                features: Features = towers.regions(data_of(step), stopped=False)
                (clip_loss(features) + region_contrast(features)).backward()
            else:
                own = [towers.regions(part_of_rank(data_of(step), rank, world), stopped=False) for rank in range(world)]
                (sum(self_distillation(one) for one in own) / world).backward()
            gradients.append({name: 0 if x.grad is None else x.grad.numpy() for name, x in towers.named_parameters()})
        contrasts, distillation = gradients
        for name in PARAMETERS:
            share = 1 / world if name in ("image", "text") else 1.0
            expected = np.asarray(share * contrasts[name] + distillation[name])
            for found in groups[world]:
                assert relative(found[f"upstream/{step}/{name}"], expected) < 1e-9


@pytest.mark.parametrize("world", [2, 3])
def test_equal_captions_are_found_on_other_ranks(groups: dict[int, list[Found]], alone: dict[str, Found], world: int) -> None:
    """The loss without them differs from that with them, so the numbers of captions travel, too."""
    own, whole = (alone[case][f"{case}/with_grad/0/loss"] for case in ("fineclip_own_captions", "fineclip"))
    assert own != whole
    assert all(relative(found["fineclip_own_captions/with_grad/0/loss"], own) < 1e-9 for found in groups[world])
