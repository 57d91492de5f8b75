"""`fgray export`: a model folder from any checkpoint of a run, and weights between its start and its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

import fgray
from fgray.config.loading import config_from_text
from fgray.config.schema import TinyModel, TrainedModel
from fgray.errors import FgrayError
from fgray.models import open_model
from tests.training.jobs import config, write_pairs

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    job = config(
        write_pairs(folder / "data"), folder / "run", steps=8, checkpoints={"every_steps": 4, "keep": 2}, freeze=["visual.conv1.*"]
    )
    fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    return folder / "run"


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoints" / f"step-{step:08d}" / "state.safetensors")


def start() -> dict[str, torch.Tensor]:
    return open_model(TinyModel(kind="tiny", seed=3)).module().state_dict()


def test_the_newest_checkpoint_is_what_the_run_exported(run: Path, tmp_path: Path) -> None:
    card = fgray.export(str(run), str(tmp_path / "model"))
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == (run / "model" / WEIGHTS).read_bytes()
    assert card.origin["step"] == 8
    assert card.sha256 == json.loads((run / "metrics.json").read_text())["training"]["model_sha256"]


def test_an_earlier_checkpoint_keeps_what_was_frozen(run: Path, tmp_path: Path) -> None:
    fgray.export(str(run), str(tmp_path / "model"), step=4)
    found, saved = safetensors.torch.load_file(tmp_path / "model" / WEIGHTS), checkpoint(run, 4)
    trained = {name.removeprefix("weights/") for name in saved if name.startswith("weights/")}
    assert found.keys() - trained == {"visual.conv1.weight"} | (
        start().keys() - dict(open_model(TinyModel(kind="tiny")).module().named_parameters()).keys()
    )
    assert all(torch.equal(found[name], saved["weights/" + name]) for name in trained)
    assert torch.equal(found["visual.conv1.weight"], start()["visual.conv1.weight"])
    assert not torch.equal(found["visual.proj"], checkpoint(run, 8)["weights/visual.proj"])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_weights_between_start_and_end(run: Path, tmp_path: Path, alpha: float) -> None:
    card = fgray.export(str(run), str(tmp_path / "model"), alpha=alpha)
    found, before, after = (
        safetensors.torch.load_file(tmp_path / "model" / WEIGHTS),
        start(),
        safetensors.torch.load_file(run / "model" / WEIGHTS),
    )
    for name in found:
        expected = (1 - alpha) * before[name].numpy().astype(np.float64) + alpha * after[name].numpy().astype(np.float64)
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-6, atol=1e-8)
    assert card.name == f"small at alpha {alpha:g}" and card.origin["alpha"] == alpha
    if alpha == 0:
        pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        exported = open_model(TrainedModel(kind="trained", path=str(tmp_path / "model"))).load("cpu").embed_images(pixels)
        np.testing.assert_array_equal(exported, open_model(TinyModel(kind="tiny", seed=3)).load("cpu").embed_images(pixels))


def test_the_command_writes_what_plain_open_clip_loads(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fgray", "export", str(run), str(tmp_path / "model"), "--step", "4", "--base", "{kind: tiny, seed: 3}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["origin"]["step"] == 4
    model = open_clip.create_model(f"local-dir:{tmp_path}/model")
    assert torch.equal(model.visual.proj, checkpoint(run, 4)["weights/visual.proj"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 5}, "no checkpoint of step 5.*there are 4, 8"),
        ({"alpha": 1.5}, "1.5 is no share"),
        ({"base": TinyModel(kind="tiny", seed=4)}, "not the model that the run started from"),
    ],
)
def test_mistakes_are_one_line(run: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(FgrayError, match=message) as caught:
        fgray.export(str(run), str(tmp_path / "model"), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_model_is_not_written_over(run: Path) -> None:
    with pytest.raises(FgrayError, match="the folder holds a model"):
        fgray.export(str(run), str(run / "model"))


def test_a_folder_that_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(FgrayError, match="name a run folder"):
        fgray.export(str(tmp_path), str(tmp_path / "model"))
