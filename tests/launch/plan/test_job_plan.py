"""Plans of whole jobs: before a run, after one, on a cluster; and what a run writes of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import fgray
from fgray.config import LoadedConfig, config_from_text
from fgray.errors import ConfigError
from fgray.launch.clusters.file import load_cluster
from fgray.launch.plan.job_plan import check_workers
from fgray.launch.submit import submit
from tests.launch.plan.clusters import AWS
from tests.small_data import write_spec
from tests.training.jobs import config as training_config
from tests.training.jobs import write_pairs


def loaded(content: dict[str, Any]) -> LoadedConfig:
    return config_from_text(yaml.safe_dump(content), "job.yaml")


def evaluation(folder: Path, output: str, **changes: Any) -> LoadedConfig:
    if not (folder / "data").exists():
        write_spec(folder / "data", cases=12)
    base = {
        "job": "eval",
        "name": "small",
        "model": {"kind": "tiny"},
        "data": {"root": str(folder / "data")},
        "benchmarks": [{"name": "spec", "subsets": ["existence", "relative_size", "count"]}],
        "compute": {"runner": "serial", "batch_size": 8, "unit_rows": 16},
        "output": str(folder / output),
    }
    return loaded({**base, **changes})


def shown(plan: Any) -> str:
    console = Console(width=240)
    with console.capture() as captured:
        console.print(plan.table())
    return captured.get()


def test_a_run_calibrates_the_plan_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGRAY_CALIBRATION", str(tmp_path / "calibration.json"))
    first = fgray.plan(evaluation(tmp_path, "one"))
    assert first.facts["calibrated_by_runs"] == 0 and "by formula" in shown(first)
    fgray.evaluate(evaluation(tmp_path, "one"))
    run = json.loads((tmp_path / "one" / "run.json").read_text())
    assert run["plan"]["seconds"] == pytest.approx(first.facts["seconds"])
    measured = run["timing"]["running_seconds"]
    assert run["timing"]["by_kind"]["embed_image"]["items"] == 12 * (2 + 3 + 9)
    metrics = (tmp_path / "one" / "metrics.json").read_text()
    assert "plan" not in json.loads(metrics) and "seconds" not in metrics
    page = (tmp_path / "one" / "report.html").read_text()
    assert "How the run went" in page and "Predicted" in page

    again = fgray.plan(evaluation(tmp_path, "two"))
    assert again.facts["calibrated_by_runs"] == 1 and "calibrated on 1 run" in shown(again)
    # The same work at the rates that were measured: within a half of what it took, and no further off than the formula was.
    assert again.facts["seconds"] == pytest.approx(measured, rel=0.5)
    assert abs(math.log(again.facts["seconds"] / measured)) <= abs(math.log(first.facts["seconds"] / measured)) + 0.05
    for kind in ("embed_image", "embed_text"):
        one = run["timing"]["by_kind"][kind]
        assert again.facts["kinds"][kind]["model"] == pytest.approx(one["model"] / one["items"], rel=0.01)

    done = fgray.plan(evaluation(tmp_path, "one"))
    assert done.facts["seconds"] == 0 and "time" not in dict(done.lines)  # all is stored


def test_a_plan_for_a_cluster_has_its_workers_and_its_price(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(AWS)
    plan = fgray.plan(evaluation(tmp_path, "run", cluster=str(tmp_path / "cluster.yaml"), compute={}))
    text = shown(plan)
    assert "28 decode, 4 model on cuda" in text
    assert "USD an hour (head and 4 gpu, 2 decode)" in text
    assert plan.facts["device"] == "NVIDIA L4"
    assert "a GPU" in plan.facts["memory_gib"]


def test_a_job_on_the_cluster_predicts_what_the_plan_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGRAY_CALIBRATION", str(tmp_path / "calibration.json"))
    (tmp_path / "cluster.yaml").write_text(AWS)
    planned = fgray.plan(evaluation(tmp_path, "run", cluster=str(tmp_path / "cluster.yaml"), compute={}))
    monkeypatch.setenv("FGRAY_CLUSTER", load_cluster(str(tmp_path / "cluster.yaml")).told())
    there = fgray.plan(evaluation(tmp_path, "run", compute={}))  # in the job, the cluster is where it runs
    assert there.facts == planned.facts
    assert there.facts["startup_key"] == "ray | aws" and there.facts["cost"]["total"] > 0 and there.facts["seconds"] > 0


@pytest.mark.parametrize(
    ("compute", "what"),
    [
        ({"workers": 9}, "want 9 GPUs, the cluster 'small' can have 4"),
        ({"workers": 2, "decode_workers": 80}, "want 82 CPUs, the cluster 'small' can have 32"),
        ({"workers": 4, "unit_rows": 256, "batch_size": 256}, "4 model workers for 2 units: 2 would start and do nothing"),
        ({"threads": 16}, "one model worker wants 16 CPUs, no node of the cluster 'small' has more than 8"),
    ],
)
def test_shapes_that_hang_or_stay_small_are_refused(tmp_path: Path, compute: dict[str, Any], what: str) -> None:
    (tmp_path / "cluster.yaml").write_text(AWS)
    with pytest.raises(ConfigError) as caught:
        fgray.plan(evaluation(tmp_path, "run", cluster=str(tmp_path / "cluster.yaml"), compute=compute))
    lines = [str(caught.value), *getattr(caught.value, "__notes__", ())]
    assert any(what in line for line in lines) and all("\n" not in line for line in lines)


def test_a_batch_beyond_the_gpus_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(AWS)
    with pytest.raises(ConfigError, match="a worker needs about .* the NVIDIA L4 has 22.*lower compute.batch_size"):
        fgray.plan(
            evaluation(
                tmp_path,
                "run",
                cluster=str(tmp_path / "cluster.yaml"),
                model={"kind": "tiny"},
                compute={"batch_size": 400_000, "unit_rows": 400_000, "workers": 1, "decode_workers": 1},
            )
        )


def test_a_driver_without_room_for_the_embeddings_is_refused(tmp_path: Path) -> None:
    small = AWS.replace("resources: {CPU: 0}", "resources: {CPU: 0, memory: 400000000}")
    (tmp_path / "cluster.yaml").write_text(small)
    with pytest.raises(ConfigError, match="the driver needs about 0.7 GiB.*the head of the cluster 'small' has 0.*a larger head node"):
        fgray.plan(evaluation(tmp_path, "run", cluster=str(tmp_path / "cluster.yaml"), compute={}))


def test_a_loop_has_no_plan_of_its_own(tmp_path: Path) -> None:
    content = yaml.safe_load(Path("configs/loop/flickr8k.yaml").read_text())
    with pytest.raises(ConfigError, match="a loop job has no plan"):
        fgray.plan(loaded(content))


def test_a_training_is_planned_run_and_planned_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGRAY_CALIBRATION", str(tmp_path / "calibration.json"))
    content = training_config(write_pairs(tmp_path / "data"), tmp_path / "run")
    first = fgray.plan(loaded(content))
    assert "12 steps of" in shown(first) and "ZeRO 0, fp32" in shown(first) and "by formula" in shown(first)
    fgray.train(loaded(content))
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*12/state.safetensors")
    assert run["plan"]["checkpoint_bytes"] == pytest.approx(checkpoint.stat().st_size, rel=0.02)
    assert run["timing"]["pairs_per_second"] > 0
    assert "How the run went" in (tmp_path / "run" / "report.html").read_text()
    again = fgray.plan(loaded({**content, "output": str(tmp_path / "other")}))
    assert again.facts["calibrated_by_runs"] == 1
    assert again.facts["pairs_per_second"] == pytest.approx(run["timing"]["pairs_per_second"], rel=0.5)


def test_more_training_workers_than_gpus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(AWS)
    content = training_config(write_pairs(tmp_path / "data"), tmp_path / "run")
    content |= {"cluster": str(tmp_path / "cluster.yaml"), "batch_size": 16, "compute": {"runner": "ray", "workers": 8}}
    with pytest.raises(ConfigError, match="8 training workers, the cluster 'small' can have 4 GPUs.*set it to 4"):
        fgray.plan(loaded(content))


def test_workers_without_a_place_are_refused_before_their_cluster_is_started(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(AWS)
    written = {
        "eval": evaluation(tmp_path, "run", compute={"workers": 9}).job.model_dump(mode="json", exclude_unset=True),
        "train": training_config(write_pairs(tmp_path / "pairs"), tmp_path / "run")
        | {"batch_size": 16, "compute": {"runner": "ray", "workers": 8}},
    }
    for name, what in (("eval", "want 9 GPUs, the cluster 'small' can have 4"), ("train", "8 training workers.*'small' can have 4 GPUs")):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(written[name]))
        with pytest.raises(ConfigError, match=what) as caught:
            submit(str(tmp_path / f"{name}.yaml"), cluster=str(tmp_path / "cluster.yaml"))
        assert f"{name}.yaml: compute." in str(caught.value)


def test_what_runs_one_kind_of_workers_at_a_time_needs_room_for_no_other(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(AWS.replace("max_workers: 4", "max_workers: 0"))  # sixteen CPUs
    texts = {
        "job": "text_negatives",
        "name": "texts",
        "pairs": {"name": "file", "root": str(tmp_path)},
        "generators": ["negclip"],
        "compute": {"workers": 16},
        "output": str(tmp_path / "texts"),
    }
    check_workers(loaded(texts), load_cluster(str(path)))
    made = {"kind": "precomputed", "name": "mine", "scores": str(tmp_path / "scores.parquet")}
    check_workers(evaluation(tmp_path, "run", model=made, compute={"workers": 99}), load_cluster(str(path)))
    images = {"kind": "lite0-minilm"}
    options = {"job": "distractors", "name": "d", "classes": {"name": "cub30"}, "model": images, "output": str(tmp_path / "d")}
    for content in (evaluation(tmp_path, "run", compute={"workers": 16}), loaded({**options, "compute": {"workers": 16}})):
        with pytest.raises(ConfigError, match="the workers .4 decode, 16 model. want 20 CPUs"):
            check_workers(content, load_cluster(str(path)))
