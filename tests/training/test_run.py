"""The train_clip job from end to end, in one process: killed, resumed, exported, refused."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

import fgray
from fgray.config.loading import config_from_text
from fgray.config.schema import TinyModel, TrainedModel
from fgray.errors import FgrayError
from fgray.models import open_model
from fgray.runs import RunFolder
from fgray.training.log import read_log
from fgray.training.selection import Selection
from tests.training.jobs import Command, config, write_pairs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("train")
    command = Command(folder, config(write_pairs(folder / "data"), folder / "whole"))
    command.run()
    return command


def test_a_run_leaves_a_model_a_log_and_a_report(finished: Command) -> None:
    rows = finished.rows()
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert np.mean([row["loss"] for row in rows[-3:]]) < rows[0]["loss"]  # it learns something
    assert finished.checkpoints() == [9, 12]
    metrics = json.loads((finished.output / "metrics.json").read_text())
    assert metrics["training"]["steps"] == metrics["training"]["exported_step"] == 12
    assert metrics["training"]["final_loss"] == rows[-1]["loss"]
    assert "<svg" in (finished.output / "report.html").read_text()
    assert json.loads((finished.output / "run.json").read_text())["loss_weights"] == "gather with_grad on 1 rank, weights: clip 1"


def test_plain_open_clip_loads_the_model_and_agrees(finished: Command) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{finished.output}/model")
    model.eval()
    encoder = open_model(TrainedModel(kind="trained", path=str(finished.output)))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    ours = encoder.load("cpu").embed_images(pixels)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(model.encode_image(images), dim=-1).numpy()
        texts = torch.nn.functional.normalize(model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a red square"])), dim=-1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(encoder.load("cpu").embed_texts(["a red square"]).values, texts, atol=1e-6)
    untrained = open_model(TinyModel(kind="tiny", seed=3))
    assert np.abs(untrained.load("cpu").embed_images(pixels) - ours).max() > 1e-3
    assert untrained.fingerprint() != encoder.fingerprint()


def test_killed_and_resumed_is_the_uninterrupted_run(finished: Command, tmp_path: Path) -> None:
    job = config(write_pairs(tmp_path / "data"), tmp_path / "killed")
    command = Command(tmp_path, job)
    command.kill_after(6)
    assert not (command.output / "metrics.json").exists()
    command.run()
    assert command.rows() == finished.rows()
    first, second = command.starts()
    assert (first["step"], second["workers"]) == (0, 1) and second["step"] >= 6 and second["lost_steps"] >= 0
    assert "started 2 times" in (command.output / "report.html").read_text()
    assert "Logged steps taken again" not in (finished.output / "report.html").read_text()
    own = command.weights()
    assert own.keys() == finished.weights().keys()
    assert all(torch.equal(own[name], value) for name, value in finished.weights().items())


def test_a_finished_run_is_not_trained_again(finished: Command) -> None:
    before = (finished.output / "model" / "open_clip_model.safetensors").stat().st_mtime_ns
    finished.run()
    assert (finished.output / "model" / "open_clip_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ["clipp"]}, "no loss is called 'clipp' .*did you mean 'clip'"),
        ({"losses": ["ce_clip"]}, "loss 'ce_clip' needs negative texts"),
        ({"freeze": ["visua.*"]}, r"pattern 'visua\.\*' matches no parameter .*did you mean 'visual\.\*'"),
        ({"compute": {"runner": "serial", "workers": 2}}, "runner serial is one worker"),
        ({"steps": None}, "give either steps or epochs"),
        ({"compute": {"runner": "serial", "micro_batch": 5}}, "batch_size 12 is no multiple of workers x micro_batch = 5"),
        ({"compute": {"workers": 6, "min_workers": 4}}, "batch_size 12 does not divide by 5 workers, which compute.min_workers allows"),
        ({"compute": {"workers": 2, "min_workers": 3}}, "min_workers 3 is more than compute.workers 2"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    job = config(write_pairs(tmp_path / "data"), tmp_path / "run", **changes)
    with pytest.raises(FgrayError, match=message) as caught:
        fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_stops_and_loses_nothing(tmp_path: Path) -> None:
    job = config(
        write_pairs(tmp_path / "data"),
        tmp_path / "run",
        optimizer={"name": "sgd", "lr": 1e30, "warmup_steps": 0, "clip_grad_norm": None},
        checkpoints={"every_steps": 1},
    )
    with pytest.raises(FgrayError, match=r"not finite.*step \d+.*optimizer\.lr"):
        fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    assert list((tmp_path / "run" / "checkpoints").glob("*/state.json"))


def test_an_image_of_an_evaluation_set_is_refused(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    job = config(pairs, tmp_path / "run", disjoint_from=[pairs])
    with pytest.raises(FgrayError, match="30 of the images are in the evaluation set file"):
        fgray.train(config_from_text(json.dumps(job), "job.yaml"))


def test_selection_picks_the_step_and_is_named(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    chosen = {"benchmarks": [{"name": "spec_style", "cases": 1}], "metric": "spec_style/macro/accuracy", "every_steps": 2, "patience": 2}
    job = config(pairs, tmp_path / "run", steps=20, selection=chosen, checkpoints={"every_steps": 3, "keep": 1})
    result = fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    history = result.training["selection"]
    best = max(history, key=lambda row: (row["value"], -row["step"]))
    assert result.training["exported_step"] == best["step"]
    later = [row for row in history if row["step"] > best["step"]]
    assert result.training["steps"] == history[-1]["step"] and (len(later) == 2 or history[-1]["step"] == 20)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(run["selection"]) == ["spec_style"]
    assert (tmp_path / "run" / "store").is_dir()
    assert not list((tmp_path / "run" / "selection").rglob("store"))  # the set is composed once, in the run's own store


def test_an_evaluation_is_no_part_of_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, slow = Selection.evaluate, 6.0  # seconds

    def evaluate_slowly(self: Selection, done: int, state: Mapping[str, torch.Tensor]) -> float:
        time.sleep(slow if done == 2 else 0)
        return evaluate(self, done, state)

    monkeypatch.setattr(Selection, "evaluate", evaluate_slowly)
    chosen = {"benchmarks": [{"name": "spec_style", "cases": 1}], "metric": "spec_style/macro/accuracy", "every_steps": 2}
    job = config(write_pairs(tmp_path / "data"), tmp_path / "run", steps=3, selection=chosen)
    fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    rows = {row["step"]: row for row in read_log(RunFolder(job["output"])) if "steps_per_second" in row}
    assert 1 / rows[3]["steps_per_second"] < slow
