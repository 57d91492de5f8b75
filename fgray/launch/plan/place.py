"""Where a job is going to run, as far as a plan needs to know: this machine, or the cluster of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from fgray.engine.cluster import VARIABLE, cluster
from fgray.launch.clusters.file import ClusterFile, NodeType
from fgray.launch.plan import devices
from fgray.launch.plan.devices import Device

_BOOT_SECONDS = {"aws": 180.0, "gcp": 180.0, "kuberay": 120.0}  # from a request for a node to its first worker; elsewhere:
_PROCESS_SECONDS = 15.0
_LOCAL = ("external", "local")  # nodes that are processes of this machine


class Pool(NamedTuple):
    """Workers of one kind.

    Attributes:
        name: decode, model, training.
        workers: how many.
        cpus, gpus: logical resources of each.
        setting: the configuration key that says how many.
    """

    name: str
    workers: int
    cpus: float
    gpus: float
    setting: str


@dataclass(frozen=True)
class Place:
    """This machine, or a cluster.

    Attributes:
        name: for messages.
        file: of the cluster; None: this machine.
        device: what the model runs on; None where nothing is known of the cluster's GPUs.
        core: a core of the processors that decode.
    """

    name: str
    file: ClusterFile | None
    device: Device | None
    core: Device = field(default_factory=devices.cpu_core)

    @property
    def boot_seconds(self) -> float:
        """Time until nodes are there that the cluster does not have yet."""
        return 0.0 if self.file is None else _BOOT_SECONDS.get(self.file.provider, _PROCESS_SECONDS)

    @property
    def cores(self) -> float:
        """Cores that share the work; of a cluster the most that it can have."""
        if self.file is not None:
            return self.file.most("CPU")
        mine = cluster()
        return float(os.cpu_count() or 1) if mine is None else mine.most.get("CPU", 1.0)


def place_of(file: ClusterFile | None, device: str) -> Place:
    """Return the place of a job.

    Args:
        file: the cluster; None: this machine.
        device: "cpu" or "cuda", resolved.
    """
    if file is None and (mine := cluster()) is not None:  # a job that runs there: what its file said of GPUs is not known here
        core = devices.cpu_core()
        return Place(f"the cluster '{mine.name}'", None, core if device == "cpu" else None, core)
    if file is None:
        return Place("this machine", None, devices.this_machine(device), devices.this_machine("cpu"))
    core = devices.this_machine("cpu") if file.provider in _LOCAL else devices.cpu_core()
    return Place(f"the cluster '{file.name}'", file, devices.gpu_of_cluster(file) if device == "cuda" else core, core)


@contextmanager
def as_job_on(file: ClusterFile | None) -> Iterator[None]:
    """Let the body resolve every "auto" as a job on the cluster will."""
    if file is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    largest = {name: max(node.resources.get(name, 0.0) for node in file.node_types) for name in file.resources}
    os.environ[VARIABLE] = json.dumps({"name": file.name, "most": file.resources, "largest": largest})
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def pack(pools: Sequence[Pool], file: ClusterFile) -> tuple[dict[str, int], dict[str, int]]:
    """Place workers on nodes, those with GPUs first, each on the node that is there already, else on a new one of the cheapest type.

    Returns:
        node type -> nodes besides the head, and pool -> workers that found a place.
    """
    nodes = [_Node(file.head, dict(file.head.resources))]
    started: dict[str, int] = {}
    for node in file.node_types:
        for _ in range(node.min_workers):
            nodes.append(_Node(node, dict(node.resources)))
            started[node.name] = started.get(node.name, 0) + 1
    placed: dict[str, int] = {}
    for pool in sorted(pools, key=lambda one: -one.gpus):
        placed[pool.name] = 0
        for _ in range(pool.workers):
            found = next((one for one in nodes if one.takes(pool)), None) or _new_node(pool, file, started)
            if found is None:
                break
            if found not in nodes:
                nodes.append(found)
            found.take(pool)
            placed[pool.name] += 1
    return started, placed


@dataclass(eq=False)
class _Node:
    kind: NodeType
    free: dict[str, float]

    def takes(self, pool: Pool) -> bool:
        return self.free.get("CPU", 0.0) >= pool.cpus and self.free.get("GPU", 0.0) >= pool.gpus

    def take(self, pool: Pool) -> None:
        self.free["CPU"] = self.free.get("CPU", 0.0) - pool.cpus
        self.free["GPU"] = self.free.get("GPU", 0.0) - pool.gpus


def _new_node(pool: Pool, file: ClusterFile, started: dict[str, int]) -> _Node | None:
    if sum(started.values()) >= file.max_workers:
        return None
    fitting = [
        node for node in file.node_types if started.get(node.name, 0) < node.max_workers and _Node(node, dict(node.resources)).takes(pool)
    ]
    if not fitting:
        return None
    without = [node for node in fitting if not node.resources.get("GPU")] if not pool.gpus else []
    kind = min(without or fitting, key=lambda node: float("inf") if node.price is None else node.price)
    started[kind.name] = started.get(kind.name, 0) + 1
    return _Node(kind, dict(kind.resources))
