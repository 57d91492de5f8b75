"""Where a job is going to run, as far as a plan needs to know: this machine, or the cluster of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from fgray.engine.cluster import VARIABLE, cluster
from fgray.launch.clusters.file import ClusterFile, NodeType, cluster_told
from fgray.launch.plan import devices
from fgray.launch.plan.devices import Device

_BOOT_SECONDS = {"aws": 180.0, "gcp": 180.0, "kuberay": 120.0}  # from a request for a node to its first worker; elsewhere:
_PROCESS_SECONDS = 15.0
LOCAL_PROVIDERS = ("external", "local")  # nodes that are processes of this machine


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
        file: of the cluster; None: this machine, or a cluster of which a job was told nothing more.
        device: what the model runs on; None where nothing is known of the cluster's GPUs.
        core: a core of the processors that decode.
        kind: of the machines, as start-up times are kept by it: this machine, aws, slurm, …
    """

    name: str
    file: ClusterFile | None
    device: Device | None
    core: Device = field(default_factory=devices.cpu_core)
    kind: str = "this machine"

    @property
    def rates_of(self) -> str | None:
        """Device by which measured rates are kept: a cloud's processors have the names of this machine's and another speed."""
        return None if self.device is None else device_on(self.device.name, self.kind)

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


def device_on(device: str, kind: str) -> str:
    """Return the name by which rates of a device are kept, of this machine or of a cluster's machines; a GPU is the same everywhere."""
    return device if not device.startswith("cpu") or kind in ("this machine", *LOCAL_PROVIDERS) else f"{device} on {kind}"


def place_of(file: ClusterFile | None, device: str) -> Place:
    """Return the place of a job.

    Args:
        file: the cluster; None: this machine.
        device: "cpu" or "cuda", resolved.
    """
    if file is None and (mine := cluster()) is not None:  # a job that runs there
        if not mine.file:
            core = devices.cpu_core()
            return Place(f"the cluster '{mine.name}'", None, core if device == "cpu" else None, core, mine.provider or "a cluster")
        file = cluster_told(mine.file)
    if file is None:
        return Place("this machine", None, devices.this_machine(device), devices.this_machine("cpu"))
    core = devices.this_machine("cpu") if file.provider in LOCAL_PROVIDERS else devices.cpu_core()
    gpu_or_core = devices.gpu_of_cluster(file) if device == "cuda" else core
    return Place(f"the cluster '{file.name}'", file, gpu_or_core, core, file.provider)


def is_here(file: ClusterFile) -> bool:
    """Return whether all nodes of a cluster are processes of this machine, and not reached through an address."""
    return file.provider in LOCAL_PROVIDERS and file.options.address is None


@contextmanager
def as_job_on(file: ClusterFile | None) -> Iterator[None]:
    """Let the body resolve every "auto" as a job on the cluster will."""
    if file is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = file.told()
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def pack(pools: Sequence[Pool], file: ClusterFile) -> tuple[dict[str, int], dict[str, int]]:
    """Place workers on nodes; see `packed`.

    Returns:
        node type -> nodes besides the head, and pool -> workers that found a place.
    """
    nodes = packed(pools, file)
    started: dict[str, int] = {}
    for node in nodes[1:]:
        started[node.kind.name] = started.get(node.kind.name, 0) + 1
    return started, {pool.name: sum(node.workers.get(pool.name, 0) for node in nodes) for pool in pools}


def packed(pools: Sequence[Pool], file: ClusterFile) -> list[PackedNode]:
    """Return the nodes that workers need, the head first. Large workers find their place first, on a node that is there if they can.

    New nodes are of the cheapest type, or of the largest where the workers do not fit into the cheapest.
    """
    wanted = sum(pool.workers for pool in pools)
    cheap = _packed(pools, file, lambda node: float("inf") if node.price is None else node.price)
    if sum(sum(node.workers.values()) for node in cheap) == wanted:
        return cheap
    large = _packed(pools, file, lambda node: -node.resources.get("CPU", 0.0))
    return max(cheap, large, key=lambda nodes: sum(sum(node.workers.values()) for node in nodes))


def _packed(pools: Sequence[Pool], file: ClusterFile, order: Callable[[NodeType], float]) -> list[PackedNode]:
    nodes = [PackedNode(file.head, dict(file.head.resources))]
    nodes += [PackedNode(node, dict(node.resources)) for node in file.node_types for _ in range(node.min_workers)]
    for pool in sorted(pools, key=lambda one: (-one.gpus, -one.cpus)):
        for _ in range(pool.workers):
            found = next((one for one in nodes if one.takes(pool)), None)
            if found is None and (found := _new_node(pool, file, nodes[1:], order)) is not None:
                nodes.append(found)
            if found is None:
                break
            found.take(pool)
    return nodes


@dataclass(eq=False)
class PackedNode:
    """A node with its workers.

    Attributes:
        kind: its type.
        free: resources that no worker has.
        workers: pool -> workers.
    """

    kind: NodeType
    free: dict[str, float]
    workers: dict[str, int] = field(default_factory=dict)

    def takes(self, pool: Pool) -> bool:
        """Return whether one more worker fits."""
        return self.free.get("CPU", 0.0) >= pool.cpus and self.free.get("GPU", 0.0) >= pool.gpus

    def take(self, pool: Pool) -> None:
        """Give a worker its place."""
        self.free["CPU"] = self.free.get("CPU", 0.0) - pool.cpus
        self.free["GPU"] = self.free.get("GPU", 0.0) - pool.gpus
        self.workers[pool.name] = self.workers.get(pool.name, 0) + 1


def _new_node(pool: Pool, file: ClusterFile, there: Sequence[PackedNode], order: Callable[[NodeType], float]) -> PackedNode | None:
    if len(there) >= file.max_workers:
        return None
    fitting = [
        node
        for node in file.node_types
        if sum(one.kind is node for one in there) < node.max_workers and PackedNode(node, dict(node.resources)).takes(pool)
    ]
    if not fitting:
        return None
    without = [node for node in fitting if not node.resources.get("GPU")] if not pool.gpus else []
    kind = min(without or fitting, key=order)
    return PackedNode(kind, dict(kind.resources))
