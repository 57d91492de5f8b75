"""Clusters of several Ray nodes on this machine for tests: up, watched, killed in part, and gone without a trace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fgray.launch.clusters import lifecycle, local_nodes
from fgray.launch.clusters.file import ClusterFile, load_cluster
from fgray.launch.clusters.processes import cluster_processes

PROJECT = Path(__file__).resolve().parents[2]
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD = "0" * 5  # ends the head's id; workers are numbered from 1


def write_cluster(folder: Path, name: str, cpus: int = 2, workers: int = 2, idle_minutes: float = 0.1) -> Path:
    """Write a cluster file: a head without CPUs, and up to so many workers."""
    node = {"resources": {"CPU": cpus, "object_store_memory": 150 << 20}, "node_config": {}, "min_workers": 0, "max_workers": workers}
    content = {
        "cluster_name": name,
        "max_workers": workers,
        "idle_timeout_minutes": idle_minutes,
        "provider": {"type": "external", "module": PROVIDER, "fgray": {"dependencies": "image"}},
        "head_node_type": "head",
        "available_node_types": {"head": {"resources": {"CPU": 0, "object_store_memory": 150 << 20}, "node_config": {}}, "worker": node},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@dataclass
class LocalCluster:
    """A cluster that is up."""

    file: ClusterFile

    @property
    def state(self) -> dict[str, Any]:
        return local_nodes.read_state(self.file.name)

    @property
    def temp(self) -> Path:
        return Path(self.state["temp"])

    def raylets(self) -> dict[str, int]:
        """Return the raylet's process of every node but the head, by the last letters of the node's id."""
        found = {}
        for pid in cluster_processes(self.temp):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0].endswith("/raylet"):
                    node = next(word for word in words if word.startswith("--node_id=")).partition("=")[2][-5:]
                    if node != HEAD:
                        found[node] = pid
        return found

    def lose_a_node(self) -> str:
        """Kill a worker node's raylet, as a machine is lost, and return the node."""
        node, pid = sorted(self.raylets().items())[0]
        os.kill(pid, signal.SIGKILL)
        return node


@contextlib.contextmanager
def local_cluster(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, **options: Any) -> Iterator[LocalCluster]:
    """Start a cluster whose state lies in a home of its own, and see that nothing is left of it."""
    monkeypatch.setenv("HOME", str(home))
    file = load_cluster(str(write_cluster(folder, name, **options)))
    temp = None
    try:
        lifecycle.up(file)
        cluster = LocalCluster(file)
        temp = cluster.temp
        yield cluster
    finally:
        lifecycle.down(file)
        assert not local_nodes.read_state(name)
        if temp is not None:
            assert cluster_processes(temp) == []
            assert not temp.exists()


def wait_for(what: Callable[[], Any], seconds: float, process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> Any:
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        told = log.read_text(errors="replace")[-3000:] if log is not None and log.exists() else ""
        assert time.monotonic() < deadline, f"it did not come about in {seconds:.0f} s\n{told}"
        assert process is None or process.poll() is None, told
        time.sleep(0.1)
    return found
