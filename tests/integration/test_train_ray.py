"""Training on Ray Train: workers, nodes and drivers are killed; what comes out is what an uninterrupted run gives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.processes import family
from tests.training.jobs import PROJECT, Command, config, write_pairs

pytestmark = pytest.mark.timeout(900)  # Ray starts up to five times in a test

STEPS = 40  # long enough to be hit in the middle
COMPUTE = {"runner": "ray", "workers": 2, "zero": 2}
SGD = {"name": "sgd", "lr": 0.01, "warmup_steps": 2}  # AdamW divides by the gradient's size, and so magnifies rounding
ON_TWO_NODES = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
import fgray

config, output, kill_after = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 150 << 20})
node = cluster.add_node(num_cpus=1, object_store_memory=150 << 20)
ray.init(address=cluster.address, log_to_driver=False)

def lose() -> None:
    while len(list(output.glob("checkpoints/*/state.json"))) == 0 or max(
        int(path.parent.name.removeprefix("step-")) for path in output.glob("checkpoints/*/state.json")
    ) < kill_after:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    print("lost a node", flush=True)

threading.Thread(target=lose, daemon=True).start()
fgray.train(fgray.load_config(config))
ray.shutdown()
cluster.shutdown()
"""


def job(folder: Path, output: str, **changes: Any) -> dict[str, Any]:
    data = folder / "data"
    pairs = (
        write_pairs(data) if not data.exists() else {"name": "file", "root": str(data / "pairs.parquet"), "images": str(data / "images")}
    )
    return config(pairs, folder / output, steps=STEPS, checkpoints={"every_steps": 4, "keep": 2}, **{"compute": COMPUTE, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("whole")
    command = Command(folder, job(folder, "run"))
    command.run()
    yield command


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The same steps by SGD in one process."""
    folder = tmp_path_factory.mktemp("alone")
    command = Command(folder, job(folder, "run", optimizer=SGD, compute={"runner": "serial"}))
    command.run()
    return command


def assert_close(command: Command, alone: Command) -> None:
    ours, theirs = command.rows(), alone.rows()
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for own, other in zip(ours, theirs, strict=True):
        assert own["loss"] == pytest.approx(other["loss"], abs=1e-5, rel=1e-5)
    weights = command.weights()
    for name, value in alone.weights().items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-5)


def assert_equal(command: Command, whole: Command) -> None:
    assert command.rows() == whole.rows()
    ours, theirs = command.weights(), whole.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert command.checkpoints() == whole.checkpoints()


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the training workers below a driver."""
    found = []
    for pid in family(process.pid):
        try:
            if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return sorted(found)


def kill_a_worker(command: Command, step: int, which: int, then_the_driver: int | None = None) -> None:
    """Run to the end; kill a worker once a checkpoint of `step` or later is there, and then, if asked, the driver likewise."""
    process = command.start()
    killed = None
    while process.poll() is None:
        newest = max(command.checkpoints(), default=-1)
        if killed is None and newest >= step and (workers := workers_of(process)):
            killed = workers[which % len(workers)]
            os.kill(killed, signal.SIGKILL)
        if killed is not None and then_the_driver is not None and newest >= then_the_driver:
            process.kill()
            process.wait()
        time.sleep(0.02)
    assert process.returncode == (0 if then_the_driver is None else -signal.SIGKILL), command.log.read_text()
    assert killed is not None, "no worker was there to be killed"


def lose_a_node(command: Command, step: int) -> str:
    script = command.file.with_suffix(".py")
    script.write_text(ON_TWO_NODES)
    done = subprocess.run(
        [sys.executable, str(script), str(command.file), str(command.output), str(step)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_killed_worker_and_a_killed_driver_cost_steps_not_results(whole: Command, tmp_path: Path) -> None:
    command = Command(tmp_path, job(tmp_path, "run"))
    kill_a_worker(command, 8, 1, then_the_driver=24)
    command.run()
    assert_equal(command, whole)
    starts = [(one["step"], one["workers"]) for one in command.starts()]
    assert len(starts) == 3 and starts[0] == (0, 2) and 8 <= starts[1][0] < 24 <= starts[2][0] and starts[2][1] == 2
    assert [one["step"] for one in whole.starts()] == [0]


@pytest.mark.chaos
def test_with_a_node_lost_fewer_workers_go_on(alone: Command, tmp_path: Path) -> None:
    command = Command(tmp_path, job(tmp_path, "run", optimizer=SGD, compute={**COMPUTE, "min_workers": 1}))
    assert "lost a node" in lose_a_node(command, 12)
    starts = command.starts()
    assert starts[0]["workers"] == 2 and any(one["workers"] == 1 and one["step"] >= 12 for one in starts)
    assert_close(command, alone)


@pytest.mark.chaos
@pytest.mark.parametrize(("workers", "zero", "micro_batch"), [(2, 0, None), (2, 1, 2), (2, 3, None), (3, 2, 2)])
def test_workers_stages_and_cached_features_give_what_one_process_gives(
    alone: Command, tmp_path: Path, workers: int, zero: int, micro_batch: int | None
) -> None:
    compute = {"runner": "ray", "workers": workers, "zero": zero, "micro_batch": micro_batch}
    command = Command(tmp_path, job(tmp_path, "run", optimizer=SGD, compute=compute))
    command.run()
    assert_close(command, alone)


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(10))
def test_killed_at_random(whole: Command, tmp_path: Path, number: int) -> None:
    draw = random.Random(number)
    step = draw.randrange(0, STEPS - 8)
    command = Command(tmp_path, job(tmp_path, "run"))
    if number % 2:
        kill_a_worker(command, step, draw.randrange(2))
    else:
        command.kill_after(step)
        time.sleep(draw.random())
        command.run()
    assert_equal(command, whole)
