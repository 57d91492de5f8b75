"""The loop from end to end on a few drawings: its parts are runs of their own, and the verdict follows from their files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import fgray
from fgray.config.loading import config_from_text
from fgray.errors import DataError, FgrayError
from fgray.evaluation.compare import compare_runs
from fgray.loop.verdict import refuse_selection

PROJECT = Path(__file__).resolve().parents[2]
TRAIN = {"name": "drawn", "split": "train", "images": 24}
HOW = {"batch_size": 8, "steps": 2, "compute": {"runner": "serial"}, "optimizer": {"lr": 0.01, "warmup_steps": 0}}


def content(output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "job": "loop",
        "name": "small",
        "model": {"kind": "tiny"},
        "base": {"sources": [{"pairs": TRAIN}], **HOW},
        "mine": {
            "pairs": TRAIN,
            "directions": ["image_to_text"],
            "search": {"k": 10},
            "filters": ["same_image", "same_caption"],
            "audit": None,
            "compute": {"runner": "serial"},
        },
        "arms": {
            "plain": {"sources": [{"pairs": TRAIN}], **HOW},
            "hard": {"sources": [{"pairs": TRAIN, "negatives": ["mined"]}], "negatives": {"texts": 2}, "losses": ["negclip"], **HOW},
        },
        "subject": "hard",
        "benchmarks": [{"name": "drawn", "split": "test", "images": 24}],
        "gates": [{"metric": "drawn/naming/accuracy", "margin": 0.9}, {"metric": "drawn/captions/accuracy", "margin": 0.9}],
        "compute": {"runner": "serial"},
        "stats": {"resamples": 200},
        "output": str(output),
        **changes,
    }


def test_the_verdict_follows_from_the_parts_and_a_second_run_repeats_it(tmp_path: Path) -> None:
    config = tmp_path / "loop.yaml"
    config.write_text(yaml.safe_dump(content(tmp_path / "run")))
    command = [sys.executable, "-m", "fgray", "submit", str(config)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run/verdict.json").read_text())
    assert (found["overall"], found["subject"]) == ("pass", "hard")
    assert found["across_seeds"] is found["across_seeds_against"] is None, "one seed"
    parts = tmp_path / "run/seed-0"
    for arm in ("plain", "hard"):
        for item in compare_runs(str(parts / "eval-base"), str(parts / f"eval-{arm}")).metrics:
            row = found["seeds"]["0"]["arms"][arm]["metrics"][item.name]
            assert (row["before"], row["after"], row["p"], row["ci95"]) == (item.value_a, item.value_b, item.p_value, list(item.interval))
    for item in compare_runs(str(parts / "eval-plain"), str(parts / "eval-hard")).metrics:
        row = found["seeds"]["0"]["against"]["plain"][item.name]
        assert (row["before"], row["after"], row["p"], row["ci95"]) == (item.value_a, item.value_b, item.p_value, list(item.interval))
    pictures = [path.parent for path in (tmp_path / "run").rglob("pictures.json")]
    assert len(pictures) == 2 and {path.parent.name for path in pictures} == {"store"}, "every part reads the same drawings"
    card = json.loads((parts / "train-hard/model/card.json").read_text())
    base = json.loads((parts / "train-base/model/card.json").read_text())
    assert card["origin"]["parent"] != base["origin"]["parent"], "arms start from the trained base"
    run = json.loads((parts / "train-hard/run.json").read_text())
    assert run["sources"][0]["negative_texts"] > 0
    assert "plain" in (tmp_path / "run/report.html").read_text()

    weights = {path: path.stat().st_mtime_ns for path in parts.glob("train-*/model/*.safetensors")}
    before = (tmp_path / "run/verdict.json").read_bytes()
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert again.returncode == 0 and (tmp_path / "run/verdict.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in parts.glob("train-*/model/*.safetensors")} == weights


@pytest.mark.long
def test_a_gate_that_fails_is_answered_by_weights_in_between(tmp_path: Path) -> None:
    selection = {"name": "drawn", "split": "selection", "images": 24}
    arm = {"sources": [{"pairs": TRAIN}], **HOW, "steps": 3, "optimizer": {"lr": 0.1, "warmup_steps": 0}}
    changes = {
        "base": None,
        "mine": None,
        "arms": {"hard": arm},
        "benchmarks": [{"name": "drawn", "split": "test", "images": 80}],
        "gates": [{"metric": "drawn/captions/accuracy", "margin": 0.01}],
        "wise_ft": {
            "benchmarks": [selection],
            "alphas": [0.5],
            "target": "drawn/naming/accuracy",
            "keep": "drawn/captions/accuracy",
            "margin": 0.9,
        },
        "stats": {"resamples": 200, "level": 0.51},  # narrow intervals, so that few drawings decide
    }
    config = tmp_path / "loop.yaml"
    config.write_text(yaml.safe_dump(content(tmp_path / "run", **changes)))
    done = subprocess.run([sys.executable, "-m", "fgray", "submit", str(config)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    found = json.loads((tmp_path / "run/verdict.json").read_text())
    assert found["overall"] == found["seeds"]["0"]["arms"]["hard"]["overall"] == "fail"
    proposal = found["seeds"]["0"]["proposal"]
    assert [point["alpha"] for point in proposal["points"]] == [0, 0.5, 1]
    for point in proposal["points"]:
        metrics = json.loads((tmp_path / f"run/seed-0/eval-wise-ft-{point['alpha']:g}/metrics.json").read_text())["metrics"]
        assert (point["target"], point["keep"]) == tuple(metrics[f"drawn/{name}/accuracy"]["value"] for name in ("naming", "captions"))
    assert proposal["alpha"] == 0.5
    judged = {item.name: item for item in compare_runs(*(str(tmp_path / f"run/seed-0/eval-{run}") for run in ("base", "hard-0.5"))).metrics}
    gate = proposal["verdict"]["gates"][0]
    assert gate["delta"] == judged["drawn/captions/accuracy"].difference
    assert "which the verdict's own data judge: " + proposal["verdict"]["overall"] in (tmp_path / "run/report.html").read_text()

    run, chosen_on = (json.loads((tmp_path / path).read_text()) for path in ("run/run.json", "run/seed-0/eval-wise-ft-0.5/metrics.json"))
    assert run["selection"] == chosen_on["fingerprints"]["data"]
    with pytest.raises(DataError, match="'drawn' selected the checkpoint and cannot judge it"):
        refuse_selection(str(tmp_path / "run/seed-0/eval-wise-ft-0.5"), str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "hrad"}, "no arm is called 'hrad'; there are plain, hard"),
        ({"mine": None}, "an arm names the negatives 'mined', but there is no section mine"),
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"arms": {"a/b": {"sources": [{"pairs": TRAIN}], **HOW}}, "subject": "a/b"}, "'a/b' is no name for a folder"),
        ({"arms": {"base": {"sources": [{"pairs": TRAIN}], **HOW}}, "subject": "base"}, "arms: 'base' is what the arms start from"),
        (
            {"base": {"sources": [{"pairs": TRAIN}], **HOW, "seed": 1}},
            "base.seed: a loop trains .* its seeds; name them in seeds",
        ),
        ({"arms": {"hard": {"sources": [{"pairs": TRAIN}], **HOW, "seed": 0}}}, "arms.hard.seed: a loop trains with each of its seeds"),
        ({"wise_ft": {"benchmarks": ["drawn"], "alphas": [1.5], "target": "a", "keep": "b"}}, "wise_ft.alphas.0"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FgrayError, match=message) as caught:
        fgray.loop(config_from_text(json.dumps(content(tmp_path, **changes)), "loop.yaml"))
    assert "\n" not in str(caught.value)
