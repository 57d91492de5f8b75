"""Jobs on a cluster that starts with its head alone, grows, loses a node that holds units, and shrinks: the results are the local ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fgray.launch.clusters import lifecycle
from tests.integration.clusters import PROJECT, LocalCluster, local_cluster, wait_for
from tests.small_data import write_spec
from tests.training.jobs import Command, config, write_pairs

pytestmark = pytest.mark.timeout(900)
ENCODER = {"kind": "python", "path": "tests.integration.slow_encoder:SlowEncoder"}
COMPUTE = {"workers": 3, "decode_workers": 1, "batch_size": 4, "unit_rows": 4}


def evaluation(data: Path, output: Path, **compute: Any) -> dict[str, Any]:
    return {
        "job": "eval",
        "name": "cluster",
        "model": ENCODER,
        "data": {"root": str(data)},
        "benchmarks": [{"name": "spec", "subsets": ["existence", "relative_size", "count"]}],
        "compute": {**COMPUTE, **compute},
        "stats": {"resamples": 200},
        "output": str(output),
    }


def mining(data: Path, output: Path, **compute: Any) -> dict[str, Any]:
    return {
        "job": "mine",
        "name": "cluster",
        "model": ENCODER,
        "data": {"root": str(data)},
        "pairs": {"name": "retrieval", "dataset": "captions"},
        "directions": ["image_to_text", "image_to_image"],
        "filters": ["same_image", "near_duplicate_images", {"name": "num_negatives", "value": 3}],
        "search": {"k": 6},
        "audit": {"anchors": 4},
        "compute": {**COMPUTE, **compute},
        "output": str(output),
    }


def write_captions(folder: Path, count: int = 120) -> Path:
    folder.mkdir()
    lines = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "split": "test", "captions": [f"number {number}", f"{number} things"]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def submit(job: dict[str, Any], folder: Path, *more: str) -> tuple[subprocess.Popen[bytes], Path]:
    path, log = folder / f"{Path(job['output']).name}.yaml", folder / f"{Path(job['output']).name}.txt"
    path.write_text(yaml.safe_dump(job))
    with log.open("wb") as output:
        command = [sys.executable, "-m", "fgray", "submit", str(path), *more]
        return subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=output, stderr=output), log


def run(job: dict[str, Any], folder: Path) -> Path:
    process, log = submit(job, folder)
    assert process.wait(600) == 0, log.read_text()
    return Path(job["output"])


def run_and_lose_a_node(cluster: LocalCluster, job: dict[str, Any], folder: Path, ready: Any) -> Path:
    """Send a job, take a node from it once `ready` says so and two nodes are at work, and see the cluster shrink after the end."""
    assert cluster.raylets() == {}, "the cluster starts with its head alone"
    process, log = submit(job, folder, "--cluster", cluster.file.path)
    try:
        wait_for(lambda: len(cluster.raylets()) >= 2 and ready(), 400, process, log)
        cluster.lose_a_node()
        assert process.poll() is None, "the job was over before the node was lost"
        assert process.wait(500) == 0, log.read_text()[-4000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    wait_for(lambda: not cluster.raylets(), 200)
    return Path(job["output"])


def units_per_node(output: Path) -> Counter[str]:
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return Counter(row["node"] for row in rows if row.get("event") == "unit")


def at_work(output: Path) -> int:
    """Return how many nodes have committed units so far, as the run says while it runs."""
    try:
        return len(json.loads((output / "progress.json").read_text()).get("nodes") or {})
    except FileNotFoundError:
        return 0


def parts(output: Path) -> list[Path]:
    return sorted(output.glob("store/*/*/part-*"))


@pytest.mark.chaos
def test_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_spec(tmp_path / "data", cases=16)
    here = run(evaluation(data, tmp_path / "here", runner="serial"), tmp_path)
    there = tmp_path / "there"
    with local_cluster(tmp_path, tmp_path, monkeypatch, "evaluation") as cluster:
        run_and_lose_a_node(cluster, evaluation(data, there), tmp_path, lambda: at_work(there) >= 2)
    for name in ("metrics.json", "samples.parquet"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    assert [path.name for path in parts(there)] == [path.name for path in parts(here)]  # nothing is split for a node's loss
    nodes = units_per_node(there)
    assert sum(nodes.values()) == len(parts(there)) and len(nodes) >= 2
    facts = json.loads((there / "run.json").read_text())
    local = json.loads((here / "run.json").read_text())
    assert facts["numerics"] == local["numerics"]  # told by the nodes
    assert facts["items"]["numerics_classes"] == local["items"]["numerics_classes"]
    assert "node" not in (there / "metrics.json").read_text()


@pytest.mark.chaos
def test_mining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_captions(tmp_path / "data")
    here = run(mining(data, tmp_path / "here", runner="serial"), tmp_path)
    there = tmp_path / "there"
    with local_cluster(tmp_path, tmp_path, monkeypatch, "mining") as cluster:
        run_and_lose_a_node(cluster, mining(data, there), tmp_path, lambda: at_work(there) >= 2)
    for name in ("metrics.json", "negatives.parquet"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    assert len(units_per_node(there)) >= 2


@pytest.mark.chaos
def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = write_pairs(tmp_path / "data")
    compute = {"runner": "ray", "workers": 2, "zero": 2}
    # Workers outlive the raylet of their node by some seconds, in which they take fifty steps.
    options: dict[str, Any] = {"steps": 400, "checkpoints": {"every_steps": 8, "keep": 2}, "compute": compute}
    whole = Command(tmp_path, config(pairs, tmp_path / "here", **options))
    whole.run()
    there = tmp_path / "there"
    with local_cluster(tmp_path, tmp_path, monkeypatch, "training", cpus=1, workers=2) as cluster:
        job = config(pairs, there, **options)
        command = Command(tmp_path, job)
        run_and_lose_a_node(cluster, job, tmp_path, lambda: max(command.checkpoints(), default=0) >= 8)
    assert command.rows() == whole.rows()  # at the same number of workers again
    starts = command.starts()
    assert len(starts) >= 2 and starts[0]["step"] == 0 and starts[-1]["step"] >= 8 and starts[-1]["workers"] == 2
    assert all(one["device"].startswith("cpu ") for one in starts)
    ours, theirs = command.weights(), whole.weights()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.chaos
def test_training_saves_its_state_when_a_node_is_about_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only checkpoint before the end is the one that the notice brings, and the loss of the node is no failure."""
    pairs = write_pairs(tmp_path / "data")
    compute = {"runner": "ray", "workers": 2, "zero": 2, "max_failures": 0}
    options: dict[str, Any] = {"steps": 400, "checkpoints": {"every_steps": 400, "keep": 2}, "compute": compute}
    whole = Command(tmp_path, config(pairs, tmp_path / "here", **options))
    whole.run()
    job = config(pairs, tmp_path / "there", **options)
    command = Command(tmp_path, job)
    with local_cluster(tmp_path, tmp_path, monkeypatch, "notice", cpus=1, workers=2) as cluster:
        process, log = submit(job, tmp_path, "--cluster", cluster.file.path)
        try:
            wait_for(lambda: _step(tmp_path / "there") >= 5, 300, process, log)
            node, raylet = sorted(cluster.raylets().items())[0]
            going = time.time() + 20
            told = "import sys; from fgray.engine.notices import drain; drain(sys.argv[1], sys.argv[2], float(sys.argv[3]))"
            command_line = [sys.executable, "-c", told, cluster.state["gcs"], "f" * 51 + node, str(going)]
            subprocess.run(command_line, cwd=PROJECT, env=lifecycle.client_environment(cluster.file), check=True)
            saved = wait_for(command.checkpoints, 20, process, log)
            assert 5 <= max(saved) < 400
            time.sleep(max(0.0, going - time.time()))
            os.kill(raylet, signal.SIGKILL)  # what the cloud does then
            assert process.wait(500) == 0, log.read_text()[-4000:]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert command.rows() == whole.rows()
    ours, theirs = command.weights(), whole.weights()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _step(output: Path) -> int:
    try:
        return int(json.loads((output / "progress.json").read_text()).get("step", 0))
    except FileNotFoundError:
        return 0
