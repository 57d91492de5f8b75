"""Steps over workers, ZeRO stages and cached features against one float64 process of plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fgray.config.schema import OpenClipModel
from fgray.errors import RunError
from fgray.losses.combine import CombinedLoss
from fgray.losses.features import Features
from fgray.models.open_clip import OpenClipSource
from fgray.models.open_clip_text import OpenClipText
from fgray.training.batch import Batch, place
from fgray.training.engine import Engine
from fgray.training.state import WEIGHT, gather_state, restore_state
from fgray.training.step import StepOptions, train_step
from fgray.training.tensors import prepare
from tests.training.grouped import run_group
from tests.training.small import PAIRS, SGD, architecture, batch, engine, full_gradients, losses, part_of_rank, relative_error, whole_error

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("clip", "spec", "ce_clip")
MICRO = 2


# --- the reference: no DeepSpeed, no Trainable, no train_step -----------------------------------------------------------


def reference_features(model: Any, source: OpenClipSource, whole: Batch) -> Features:
    """Embed a batch with open_clip in float64, negatives put in their places one by one."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (source.preprocess.mean, source.preprocess.std))
    pixels = (torch.from_numpy(whole.images).permute(0, 3, 1, 2).double() / 255 - mean) / std
    tokens = torch.tensor(OpenClipText(source.settings["text_cfg"])(whole.texts).rows)
    images, texts = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)

    def placed(rows: Tensor, index: Any) -> Tensor:
        nothing = torch.zeros(rows.shape[1], dtype=torch.float64)
        return torch.stack([torch.stack([rows[place] if place >= 0 else nothing for place in line]) for line in index.tolist()])

    return Features(
        image=images[: whole.size],
        text=texts[: whole.size],
        scale=model.logit_scale.exp(),
        negative_texts=placed(texts, whole.text_index),
        text_mask=torch.from_numpy(whole.text_index >= 0),
        negative_images=placed(images, whole.image_index),
        image_mask=torch.from_numpy(whole.image_index >= 0),
    )


class Reference:
    """Plain SGD with clipping on the whole batch, in float64."""

    def __init__(self, model: OpenClipModel) -> None:
        self.source = OpenClipSource(model)
        self.model = self.source.module().double()
        self.loss = losses(*NAMES).double()

    def gradients(self, parts: list[Batch], step: int = 0) -> dict[str, Tensor]:
        """Return the gradient of the mean of the parts' losses."""
        self.model.zero_grad()
        for part in parts:
            total, _ = self.loss(reference_features(self.model, self.source, part), step)
            (total * part.size / sum(one.size for one in parts)).backward()
        return {name: weight.grad.clone() for name, weight in self.model.named_parameters()}

    def train(self, steps: int) -> tuple[list[float], dict[str, Tensor]]:
        """Return the gradient's norms and the weights after so many steps."""
        norms = []
        for step in range(steps):
            gradients = self.gradients([batch(step)], step)
            norms.append(float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm()))
            assert SGD.clip_grad_norm is not None
            factor = min(1.0, SGD.clip_grad_norm / norms[-1])
            with torch.no_grad():
                features = reference_features(self.model, self.source, batch(step))
                for name, weight in self.model.named_parameters():
                    decay = SGD.weight_decay * weight if weight.ndim >= 2 else 0  # CLIP has no matrix that is a norm or a bias
                    weight -= SGD.lr * (factor * gradients[name] + decay)
                self.loss.update(features)
        return norms, {name: weight.detach().clone() for name, weight in self.model.named_parameters()}


# --- what runs in every process of a group ------------------------------------------------------------------------------


class _Spied:
    """Keeps the reduced gradient that an engine is about to use."""

    def __init__(self, engine: Engine) -> None:
        self.gradients: dict[str, Tensor] = {}
        update = engine.update

        def spy(step: int) -> Any:
            self.gradients = full_gradients(engine)
            return update(step)

        engine.update = spy  # type: ignore[method-assign]


def weights_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(WEIGHT): value for name, value in state.items() if name.startswith(WEIGHT)}


def matrix(model: OpenClipModel, stages: list[int], steps: int) -> dict[str, Any]:
    """Train at every stage, with and without cached features; then all that an engine at hand is good for."""
    results: dict[str, Any] = {}
    for zero in stages:
        one = engine(model, zero)
        spied = _Spied(one)
        start = [gather_state(one)]
        torch.distributed.broadcast_object_list(start)
        for micro in (None, MICRO):
            restore_state(one, start[0])
            results[f"zero {zero} micro {micro}"] = trained(one, spied, steps, StepOptions(micro_batch=micro))
        for name, options in {
            "local": StepOptions(gather="local", micro_batch=MICRO),
            "own negatives": StepOptions(micro_batch=3, accumulation="micro_batch"),
        }.items():
            restore_state(one, start[0])
            results[f"zero {zero} {name}"] = trained(one, spied, 1, options)
        restore_state(one, start[0])
        results[f"zero {zero} broken"] = broken(one)
        after = gather_state(one)
        results[f"zero {zero} unmoved"] = all(torch.equal(after[name], value) for name, value in start[0].items() if after)
        one.close()
    return results


def trained(one: Engine, spied: _Spied, steps: int, options: StepOptions) -> dict[str, Any]:
    loss, first, values = losses(*NAMES), {}, []
    for step in range(steps):
        mine = part_of_rank(batch(step), one.rank, one.world)
        values.append(train_step(one, loss, prepare(mine, one.trainable, options.micro_batch), step, options))
        first = first or dict(spied.gradients)
    return {
        "first": first,
        "values": values,
        "weights": weights_of(gather_state(one)),
        "state": {name: value.clone() for name, value in loss.state_dict().items()},
    }


class _Broken(CombinedLoss):
    """A loss that is NaN on the last rank only, or has a gradient that is."""

    def __init__(self, value: bool) -> None:
        super().__init__(losses("clip").configs.values())  # type: ignore[arg-type]
        self.value = value

    def forward(self, features: Features, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = super().forward(features, step)
        if torch.distributed.get_rank() + 1 < torch.distributed.get_world_size():
            return total, terms
        if self.value:
            return total * float("nan"), {"clip": terms["clip"] * float("nan")}
        return total + (features.image * 0).sum().sqrt(), terms  # 0, but its slope is infinite times 0


def broken(one: Engine) -> list[str]:
    """Return what is said of a gradient, then of a loss, that is no number."""
    said = []
    for value in (False, True):
        parts = prepare(part_of_rank(batch(0), one.rank, one.world), one.trainable)
        with pytest.raises(RunError) as error:
            train_step(one, _Broken(value), parts, 7, StepOptions())
        said.append(str(error.value))
    return said


# --- the tests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenClipModel:
    return architecture(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model: OpenClipModel) -> dict[str, Any]:
    norms, weights = Reference(model).train(20)
    _, after_five = Reference(model).train(5)
    return {"first": Reference(model).gradients([batch(0)]), "norms": norms, 20: weights, 5: after_five}


def check(results: list[dict[str, Any]], reference: dict[str, Any], model: OpenClipModel, stages: list[int], steps: int) -> None:
    world = len(results)
    for zero in stages:
        for micro in (None, MICRO):
            found = [result[f"zero {zero} micro {micro}"] for result in results]
            for one in found:
                assert relative_error(one["first"], reference["first"]) <= 1e-5  # float32 against float64
                assert [value["gradient_norm"] for value in one["values"]] == pytest.approx(reference["norms"][:steps], rel=1e-4)
            assert relative_error(found[0]["weights"], reference[steps]) <= 1e-5
            assert all(torch.equal(one["first"][name], found[0]["first"][name]) for one in found for name in one["first"])
            assert all(torch.equal(one["state"][name], found[0]["state"][name]) for one in found for name in one["state"])
        local = results[0][f"zero {zero} local"]
        assert relative_error(local["first"], reference["first"]) <= 1e-5
        own = results[0][f"zero {zero} own negatives"]["first"]
        if world * 3 < PAIRS:  # the k-th parts of all ranks share their negatives
            whole = [part_of_rank(batch(0), rank, world).micro(3) for rank in range(world)]
            joined = [joined_batch([parts[k] for parts in whole]) for k in range(len(whole[0]))]
            assert relative_error(own, Reference(model).gradients(joined)) <= 1e-5
            assert relative_error(own, reference["first"]) > 1e-2
        for result in results:
            gradient, loss = result[f"zero {zero} broken"]
            assert loss.startswith("the loss is not finite (loss/clip) [step 7]: ")
            assert gradient.startswith("the gradient is not finite [step 7]: ")
            assert result[f"zero {zero} unmoved"]


def joined_batch(parts: list[Batch]) -> Batch:
    """Return the pairs of several batches as one."""
    captions = [text for part in parts for text in part.texts[: part.size]] + [text for part in parts for text in part.texts[part.size :]]
    images = np.concatenate([part.images[: part.size] for part in parts] + [part.images[part.size :] for part in parts])
    text_there, image_there = (np.concatenate([getattr(part, name) >= 0 for part in parts]) for name in ("text_index", "image_index"))
    numbers = np.concatenate([part.samples for part in parts])
    return Batch(images, captions, len(numbers), place(text_there), place(image_there), np.zeros_like(numbers), numbers)


def agree(groups: list[list[dict[str, Any]]], stages: list[int]) -> None:
    """Hold every combination against the first one, float32 against float32."""
    base = groups[0][0]["zero 0 micro None"]
    for results in groups:
        for zero in stages:
            for micro in (None, MICRO):
                found = results[0][f"zero {zero} micro {micro}"]
                assert whole_error(found["first"], base["first"]) <= 1e-6
                assert whole_error(found["weights"], base["weights"]) <= 1e-5


def test_one_and_two_workers(model: OpenClipModel, reference: dict[str, Any], tmp_path: Path) -> None:
    stages, steps = [0, 2, 3], 5
    groups = [run_group(matrix, world, tmp_path / str(world), model, stages, steps) for world in (1, 2)]
    for results in groups:
        check(results, reference, model, stages, steps)
    agree(groups, stages)


@pytest.mark.chaos
def test_every_stage_with_up_to_three_workers(model: OpenClipModel, reference: dict[str, Any], tmp_path: Path) -> None:
    stages, steps = [0, 1, 2, 3], 20
    groups = [run_group(matrix, world, tmp_path / str(world), model, stages, steps) for world in (1, 2, 3)]
    for results in groups:
        check(results, reference, model, stages, steps)
    agree(groups, stages)


def dropping(model: OpenClipModel) -> dict[str, Tensor]:
    one = engine(model, dropout=True)
    spied = _Spied(one)
    train_step(one, losses(*NAMES), prepare(batch(0), one.trainable, MICRO), 0, StepOptions(micro_batch=MICRO, seed=5))
    found = dict(spied.gradients)
    # The same masks, drawn part after part from the same seed, under one graph of the whole batch.
    other = engine(model, dropout=True)
    torch.manual_seed(one_seed())
    rows = [dict(other.trainable.module(*vars(part).values())) for part in prepare(batch(0), other.trainable, MICRO)]
    features = {name: torch.cat([row[name] for row in rows]) for name in rows[0] if name != "scale"}
    masks = {"text_mask": torch.from_numpy(batch(0).text_index >= 0), "image_mask": torch.from_numpy(batch(0).image_index >= 0)}
    total, _ = losses(*NAMES)(Features(**features, **masks, scale=rows[0]["scale"]), 0)  # type: ignore[arg-type]
    total.backward()
    expected = {name: weight.grad for name, weight in other.weights.items() if weight.grad is not None}
    assert found.keys() == expected.keys()
    return {"error": torch.tensor(relative_error(found, expected))}


def one_seed() -> int:
    from fgray.training.step import _seed

    return _seed(5, 0, 0)


def test_cached_features_with_dropout(tmp_path: Path) -> None:
    model = architecture(tmp_path, patch_dropout=0.5)
    (result,) = run_group(dropping, 1, tmp_path / "group", model)
    assert result["error"] <= 1e-6


def rounded(model: OpenClipModel) -> list[list[float]]:
    curves = []
    for precision, zero in (("fp32", 0), ("bf16", 3)):
        one = engine(model, zero, precision=precision, activation_checkpointing=precision == "bf16")  # type: ignore[arg-type]
        loss = losses("clip")
        parts = [prepare(part_of_rank(batch(0), one.rank, one.world), one.trainable, MICRO)] * 6
        curves.append([train_step(one, loss, part, step, StepOptions(micro_batch=MICRO))["loss"] for step, part in enumerate(parts)])
        dtypes = {weight.dtype for weight in one.trainable.module.parameters()}
        assert dtypes == {torch.float32}
        one.close()
    return curves


def test_bf16_checkpointed_at_stage_three_learns_as_fp32_does(model: OpenClipModel, tmp_path: Path) -> None:
    results = run_group(rounded, 2, tmp_path, model)
    exact, low = results[0]
    assert low == pytest.approx(exact, rel=3e-2) and low != exact
    assert low[-1] < low[0] - 0.02
    assert results[1] == results[0]
