"""State saved at one ZeRO stage and number of workers goes on at another, and so does AdamW's curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fgray.config.schema import OpenClipModel
from fgray.config.train import OptimizerConfig
from fgray.errors import RunError
from fgray.models.open_clip import OpenClipSource
from fgray.training.engine import Engine
from fgray.training.state import gather_state, restore_state
from fgray.training.step import StepOptions, train_step
from fgray.training.tensors import prepare
from tests.training.grouped import run_group
from tests.training.small import SGD, architecture, batch, engine, losses, part_of_rank, relative_error, whole_error

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ADAMW = OptimizerConfig(lr=1e-3, warmup_steps=2, ema=0.9, clip_grad_norm=1.0)
SAVED, STEPS = 3, 6
FROZEN = ["visual.conv1.*", "token_embedding.*"]


def run(one: Engine, loss: Any, steps: range) -> list[float]:
    options = StepOptions(micro_batch=2)
    return [
        train_step(one, loss, prepare(part_of_rank(batch(step), one.rank, one.world), one.trainable, 2), step, options)["loss"]
        for step in steps
    ]


def copied(loss: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in loss.state_dict().items()}


def uninterrupted(model: OpenClipModel, zero: int) -> dict[str, Any]:
    """Train without a break; return the state on the way and at the end."""
    one, loss = engine(model, zero, ADAMW, freeze=FROZEN), losses("clip", "ce_clip")
    first = gather_state(one)
    curve = run(one, loss, range(SAVED))
    saved, state = gather_state(one), copied(loss)
    curve += run(one, loss, range(SAVED, STEPS))
    return {"first": first, "curve": curve, "saved": saved, "loss": state, "end": gather_state(one)}


def resumed(model: OpenClipModel, stages: list[int], saved: dict[str, Tensor], loss_state: dict[str, Tensor]) -> dict[int, Any]:
    """Go on from a state at every stage, each in a new engine."""
    results: dict[int, Any] = {}
    for zero in stages:
        one, loss = engine(model, zero, ADAMW, freeze=FROZEN), losses("clip", "ce_clip")
        restore_state(one, saved)
        loss.load_state_dict(loss_state)
        back = gather_state(one)
        curve = run(one, loss, range(SAVED, STEPS))
        results[zero] = {"back": back, "curve": curve, "end": gather_state(one)}
        one.close()
    return results


def check(results: list[dict[int, Any]], expected: dict[str, Any]) -> None:
    for zero, result in results[0].items():
        assert result["back"].keys() == expected["saved"].keys()
        for name, value in expected["saved"].items():
            assert result["back"][name].shape == value.shape, name
            assert torch.equal(result["back"][name], value), (zero, name)
        assert result["curve"] == pytest.approx(expected["curve"][SAVED:], rel=1e-5)
        for part in ("weights/", "average/"):
            end, whole = (
                {name: value for name, value in state.items() if name.startswith(part)} for state in (result["end"], expected["end"])
            )
            assert end.keys() == whole.keys()
            assert whole_error(end, whole) <= 1e-5
        assert result["end"]["updates"] == STEPS
    assert all(other[zero]["end"] == {} for other in results[1:] for zero in other)  # only the first rank holds a state


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenClipModel:
    return architecture(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(model: OpenClipModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process at stage 0."""
    return run_group(uninterrupted, 1, tmp_path_factory.mktemp("alone"), model, 0)[0]


@pytest.fixture(scope="module")
def divided(model: OpenClipModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two processes at stage 3."""
    return run_group(uninterrupted, 2, tmp_path_factory.mktemp("divided"), model, 3)[0]


def test_the_state_is_the_weights_and_moments_that_move(model: OpenClipModel, alone: dict[str, Any]) -> None:
    shapes = {name: weight.shape for name, weight in OpenClipSource(model).module().named_parameters()}
    moving = {name for name in shapes if not name.startswith(("visual.conv1.", "token_embedding."))}
    assert moving < set(shapes) and "logit_scale" in moving
    assert set(alone["first"]) == {f"{part}/{name}" for name in moving for part in ("weights", "average")} | {"updates"}
    saved = alone["saved"]
    assert set(saved) == {f"{part}/{name}" for name in moving for part in ("weights", "average", "exp_avg", "exp_avg_sq")} | {"updates"}
    assert all(saved[f"{part}/{name}"].shape == shapes[name] for name in moving for part in ("weights", "average", "exp_avg"))
    assert all(value.dtype == torch.float32 for name, value in saved.items() if name != "updates") and saved["updates"] == SAVED
    assert all(float(saved[f"exp_avg_sq/{name}"].abs().sum()) > 0 for name in moving)


def test_adamw_curves_agree(alone: dict[str, Any], divided: dict[str, Any]) -> None:
    assert divided["curve"] == pytest.approx(alone["curve"], rel=1e-4)
    assert alone["curve"][-1] != pytest.approx(alone["curve"][0], rel=1e-2)
    moments = {name: value for name, value in alone["saved"].items() if name.startswith("exp_avg/")}
    assert relative_error({name: divided["saved"][name] for name in moments}, moments) <= 1e-2


def test_from_one_worker_to_two(model: OpenClipModel, alone: dict[str, Any], tmp_path: Path) -> None:
    check(run_group(resumed, 2, tmp_path, model, [2, 3], alone["saved"], alone["loss"]), alone)


def test_from_two_workers_at_stage_three_to_one(model: OpenClipModel, divided: dict[str, Any], tmp_path: Path) -> None:
    check(run_group(resumed, 1, tmp_path, model, [0], divided["saved"], divided["loss"]), divided)


@pytest.mark.chaos
@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_stage_and_number_of_workers(world: int, model: OpenClipModel, divided: dict[str, Any], tmp_path: Path) -> None:
    check(run_group(resumed, world, tmp_path, model, [0, 1, 2, 3], divided["saved"], divided["loss"]), divided)


def refused(model: OpenClipModel, other: OpenClipModel, saved: dict[str, Tensor]) -> list[str]:
    said = []
    engines = [engine(other, 0, ADAMW, freeze=FROZEN), engine(model, 0, ADAMW), engine(model, 0, SGD, freeze=FROZEN)]
    for one in engines:
        before = {name: value.clone() for name, value in one.trainable_parts().items()}
        with pytest.raises(RunError) as error:
            restore_state(one, saved)
        said.append(str(error.value))
        assert all(torch.equal(value, before[name]) for name, value in one.trainable_parts().items())
    return said


def test_a_state_of_something_else_is_refused(model: OpenClipModel, alone: dict[str, Any], tmp_path: Path) -> None:
    other = architecture(tmp_path, width=48)
    for line in run_group(refused, 1, tmp_path / "group", model, other, alone["saved"])[0]:
        assert line.startswith("the checkpoint is of another model or optimizer (first difference: '")
        assert "\n" not in line
