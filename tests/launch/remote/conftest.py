"""A cluster on loopback for the tests of jobs: a home of its own, and secrets planted in the environment while it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fgray.launch.clusters import lifecycle
from fgray.launch.clusters.file import ClusterFile, load_cluster

PROJECT = Path(__file__).resolve().parents[3]
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-secret-c0ffee",
    "TRACKER_API_TOKEN": "planted-token-c0ffee",
    "AWS_ACCESS_KEY_ID": "planted-id-c0ffee",
}
CLUSTER = """
cluster_name: fgray-test-jobs
max_workers: 0
provider:
  type: external
  module: ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider
  fgray: {dependencies: image}
head_node_type: ray.head.default
available_node_types:
  ray.head.default: {resources: {CPU: 1, object_store_memory: 100000000}, node_config: {}, max_workers: 0}
"""
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    """The environment of every command, that of the one that starts the cluster included."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **PLANTED, "HOME": str(home), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def cluster(home: Path, environment: dict[str, str]) -> Iterator[ClusterFile]:
    path = home / "cluster.yaml"
    path.write_text(CLUSTER)
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(environment):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        file = load_cluster(str(path))
        lifecycle.up(file)
        try:
            yield file
        finally:
            lifecycle.down(file)


@pytest.fixture
def cli(environment: dict[str, str], tmp_path: Path) -> Cli:
    """Runs a command of fgray's in `tmp_path`."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fgray", *arguments]
        return subprocess.run(command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, timeout=280)

    return run
