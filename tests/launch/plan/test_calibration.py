"""What a run measured moves the next plan towards it; the same run counts once; a bad file harms nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fgray.launch.plan.calibration import _RUNS, Calibration, rate_key
from fgray.launch.plan.learn import learn, learn_from
from fgray.runs import RunFolder

KEY = rate_key("cpu x86_64 AVX512", "ViT-B-32", "fp32", 1)
RUN = {
    "name": "r",
    "job": "eval",
    "fingerprint": "f",
    "model": {"card": {"architecture": "ViT-B-32", "dtype": "fp32"}, "fingerprint": "m"},
    "numerics": {"device": "cpu x86_64 AVX512"},
    "compute": {"threads": 1},
    "plan": {"kinds": {"embed_image": {"bytes": 20_000}}, "startup_key": "ray | this machine"},
    "timing": {
        "startup_seconds": 11.0,
        "by_kind": {"embed_image": {"items": 200, "decode": 0.8, "model": 20.0, "commit": 0.1}, "embed_text": {"items": 50, "model": 2.0}},
    },
}


def test_a_run_is_learnt_once_and_found_again(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "calibration.json")
    for _ in range(2):
        calibration = Calibration(path)
        assert learn("runs/r", RUN, calibration)
        calibration.save()
    found = Calibration(path)
    assert found.per_item(KEY, "embed_image", "model") == (pytest.approx(0.1), 1)
    assert found.per_item(KEY, "embed_text", "model") == (pytest.approx(0.04), 1)
    assert found.per_item(KEY, "embed_text", "decode") is None  # texts are not decoded
    assert found.startup("ray | this machine") == (11.0, 1)
    assert found.per_item(rate_key("NVIDIA L4", "ViT-B-32", "fp32", 1), "embed_image", "model") is None


def test_rates_are_means_over_items_and_old_runs_fall_out(tmp_path: Path) -> None:
    found = Calibration(str(tmp_path / "c.json"))
    found.add("a", KEY, "k", "model", 100, 10.0)
    found.add("b", KEY, "k", "model", 300, 90.0)
    assert found.per_item(KEY, "k", "model") == (pytest.approx(0.25), 2)
    for number in range(_RUNS):
        found.add(f"new {number}", KEY, "k", "model", 10, 10.0)
    assert found.per_item(KEY, "k", "model") == (pytest.approx(1.0), _RUNS)


def test_a_training_is_learnt_by_its_operations(tmp_path: Path) -> None:
    run = {
        **RUN,
        "job": "train_clip",
        "compute": {"device": "NVIDIA L4", "precision": "bf16", "threads": 2, "workers": 4},
        "plan": {"gflop_per_pair": 44.0},
        "timing": {"pairs": 6400, "pairs_per_second": 800.0},
    }
    found = Calibration(str(tmp_path / "c.json"))
    assert learn("runs/t", run, found)
    key = rate_key("NVIDIA L4", "ViT-B-32", "bf16", 2)
    assert found.per_item(key, "pair", "step", 44.0) == (pytest.approx(4 / 800), 1)
    assert found.per_item(key, "pair", "step", 88.0) == (pytest.approx(8 / 800), 1)


def test_a_training_on_a_cluster_is_learnt_from_what_its_workers_said(tmp_path: Path) -> None:
    def run(*starts: tuple[str, int]) -> dict[str, Any]:
        timing = {"pairs": 6400, "pairs_per_second": 800.0, "starts": [{"device": device, "workers": count} for device, count in starts]}
        compute = {"device": "cuda", "precision": "bf16", "threads": 2, "workers": 4}
        return {**RUN, "job": "train_clip", "compute": compute, "plan": {"gflop_per_pair": 44.0}, "timing": timing}

    found = Calibration(str(tmp_path / "c.json"))
    assert not learn("runs/a", run(("NVIDIA L4", 4), ("NVIDIA L4", 2)), found)  # whose rate would that be?
    assert not learn("runs/b", run(("NVIDIA L4", 4), ("Tesla T4", 4)), found)
    assert not learn("runs/c", run(), found)
    assert learn("runs/d", run(("NVIDIA L4", 4), ("NVIDIA L4", 4)), found)
    assert found.per_item(rate_key("NVIDIA L4", "ViT-B-32", "bf16", 2), "pair", "step", 44.0) == (pytest.approx(4 / 800), 1)


def test_a_clouds_processors_do_not_teach_this_machines_rates(tmp_path: Path) -> None:
    found = Calibration(str(tmp_path / "c.json"))
    plan = {**RUN["plan"], "place": "aws", "startup_key": "ray | aws"}
    assert learn("s3://b/r", {**RUN, "plan": plan}, found)
    assert found.per_item(KEY, "embed_image", "model") is None and found.startup("ray | this machine") is None
    there = rate_key("cpu x86_64 AVX512 on aws", "ViT-B-32", "fp32", 1)
    assert found.per_item(there, "embed_image", "model") == (pytest.approx(0.1), 1)


def test_runs_that_say_nothing_of_one_device_are_left_out(tmp_path: Path) -> None:
    found = Calibration(str(tmp_path / "c.json"))
    mixed = {**RUN, "items": {"numerics_classes": [{"device": "NVIDIA L4"}, {"device": "Tesla T4"}]}}
    assert not learn("runs/r", mixed, found)
    assert not learn("runs/r", {**RUN, "timing": {"by_kind": {}}}, found)  # all was stored
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_json(RunFolder.RUN, {**RUN, "timing": {}})
    assert not learn_from(folder.uri, found)
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', "{"])
def test_a_bad_file_counts_as_none(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.json").write_text(content)
    assert Calibration(str(tmp_path / "c.json")).per_item(KEY, "embed_image", "model") is None


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, warned: Callable[[str], list[str]]) -> None:
    heard = warned("fgray.launch.plan.calibration")
    (tmp_path / "file").write_text("")
    calibration = Calibration(str(tmp_path / "file" / "c.json"))
    learn("runs/r", RUN, calibration)
    calibration.save()
    assert ["were not kept" in line for line in heard] == [False, True]  # it cannot be read, either


def test_the_variable_says_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGRAY_CALIBRATION", str(tmp_path / "own.json"))
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_json(RunFolder.RUN, RUN)
    assert learn_from(folder.uri)
    assert json.loads((tmp_path / "own.json").read_text())["format"] == 1
