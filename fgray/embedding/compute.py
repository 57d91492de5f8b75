"""How the embedding work is cut and spread on this machine or a cluster, and which of that the numbers depend on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from fgray.config.schema import ComputeConfig
from fgray.engine.cluster import Cluster, Nodes, cluster
from fgray.errors import ConfigError
from fgray.models.base import ModelSource

CHUNK_BYTES = 128 << 20  # decoded pixels of a unit on a GPU
CPU_UNIT_BATCHES = 2  # a CPU worker needs seconds for that, which is what a killed worker may cost


@dataclass(frozen=True)
class Compute:
    """`ComputeConfig` with every "auto" resolved; kept in run.json so that a resumed run computes alike."""

    runner: Literal["ray", "serial"]
    device: str
    workers: int
    decode_workers: int
    batch_size: int
    unit_rows: int
    threads: int

    def numerics(self, source: ModelSource) -> dict[str, Any]:
        """Return the numerics class: equal classes give equal bytes, others agree to about 1e-5.

        On a cluster it lacks what only the machines that compute can tell; the parts that they commit say it.
        """
        facts = {"dtype": source.card.dtype, "batch": self.batch_size, "threads": self.threads}
        return facts if cluster() is not None else {**machine_numerics(self.device), **facts}


def resolve_compute(config: ComputeConfig, source: ModelSource | None, previous: Mapping[str, Any] | None = None) -> Compute:
    """Replace every "auto" by what suits the model and this machine, or the cluster that this process works for.

    Args:
        config: what the user wrote.
        source: the model, for the size of its input; None where nothing is embedded.
        previous: what an interrupted run on the same output had resolved; on the same kind of device its batch and unit
            sizes are kept, so that the rest is computed in the same numerics class.

    Raises:
        ConfigError: the device is cuda and there is no GPU.
    """
    mine = cluster()
    device, workers, decoders = _on_this_machine(config) if mine is None else _on_cluster(config, mine)
    on_gpu = device == "cuda"
    kept = previous if previous is not None and previous.get("device") == device else {}
    batch = kept.get("batch_size", 256 if on_gpu else 32) if config.batch_size == "auto" else config.batch_size
    rows = kept.get("unit_rows", _unit_rows(source, batch, on_gpu)) if config.unit_rows == "auto" else config.unit_rows
    return Compute(config.runner, device, workers, decoders, batch, rows, config.threads)


def _on_this_machine(config: ComputeConfig) -> tuple[str, int, int]:
    """Return device kind, model workers and decoders on this machine, whose cores they share."""
    import torch

    found = config.device
    if found == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU for device cuda", where="compute.device", fix="say cpu or auto; `fgray doctor` shows devices")
    if found == "auto":
        found = "cuda" if torch.cuda.is_available() else "cpu"
    cores, on_gpu = os.cpu_count() or 1, found == "cuda"
    decoders = (cores if on_gpu else max(1, cores // 4)) if config.decode_workers == "auto" else config.decode_workers
    devices = max(1, torch.cuda.device_count()) if on_gpu else max(1, cores // config.threads)
    return found, devices if config.workers == "auto" else config.workers, decoders


def _on_cluster(config: ComputeConfig, mine: Cluster) -> tuple[str, int, int]:
    """Return device kind, model workers and decoders that fit a cluster's nodes together; this process may run where there is no GPU."""
    cpus, gpus = int(mine.most.get("CPU", 0)), int(mine.most.get("GPU", 0))
    if config.device == "cuda" and not gpus:
        raise ConfigError(f"no node of the cluster '{mine.name}' has a GPU", where="compute.device", fix="say cpu or auto")
    if cpus < 1:
        raise ConfigError(f"no node of the cluster '{mine.name}' has a CPU for work", where="available_node_types", fix="add worker nodes")
    device = config.device if config.device != "auto" else "cuda" if gpus else "cpu"
    free = _free_cpus(mine, device == "cuda", config.threads)
    auto = 1 if device == "cuda" else max(1, free[0] // 4)
    wanted = auto if config.decode_workers == "auto" else config.decode_workers
    if config.workers == "auto":
        # Where no number leaves enough for the decoders that were asked for, the plan says so.
        workers = next((n for n in range(len(free) - 1, 0, -1) if free[n] >= wanted), max(1, len(free) - 1))
    else:
        workers = config.workers
    if config.decode_workers == "auto" and device == "cuda":
        wanted = max(1, free[min(workers, len(free) - 1)])
    return device, workers, wanted


def _free_cpus(mine: Cluster, on_gpu: bool, threads: int) -> list[int]:
    """Return how many CPUs decoders find beside 0, 1, 2, … model workers, as far as these fit.

    GPU nodes are taken for model workers; decoders go beside them and to the cheaper nodes in the places that are left. One more GPU node
    is taken for them where there is nothing else.
    """
    shapes = mine.nodes or (Nodes(mine.most, 1, 1),)  # not told: one large node
    limit = mine.max_nodes or sum(shape.most for shape in shapes)
    running = [shape.resources for shape in shapes for _ in range(shape.least)]
    more = [shape.resources for shape in shapes for _ in range(shape.most - shape.least)]
    plain = sorted((one for one in more if not one.get("GPU")), key=lambda one: -one.get("CPU", 0.0))
    with_gpu = sorted((one for one in more if one.get("GPU")), key=lambda one: (-one["GPU"], -one.get("CPU", 0.0)))
    places = max(0, limit - len(running))
    if not on_gpu:
        taken = [*running, *(plain or with_gpu)[:places]]
        cpus, fit = sum(_cpus(one) for one in taken), sum(_cpus(one) // threads for one in taken)
        return [cpus - n * threads for n in range(fit + 1)]
    found, taken, workers = [], [*running], 0
    for nodes in range(min(places, len(with_gpu)) + 1):
        if nodes:
            taken.append(with_gpu[nodes - 1])
        fit = sum(min(int(one.get("GPU", 0)), _cpus(one) // threads) for one in taken)
        cpus = sum(map(_cpus, [*taken, *plain[: places - nodes]]))
        spare = _cpus(with_gpu[nodes]) if nodes < min(places, len(with_gpu)) else 0
        found += [cpus - n * threads or spare for n in range(workers, fit + 1)]
        workers = fit + 1
    return found


def _cpus(node: Mapping[str, float]) -> int:
    return int(node.get("CPU", 0))


def machine_numerics(device: str) -> dict[str, Any]:
    """Return what numbers depend on and only this machine can tell: its device and its libraries."""
    packages = ("torch", "pillow", "numpy", "transformers", "open_clip_torch", "timm", "torchvision")
    return {"device": device_name(device), **{name: _version(name) for name in packages}}


def joint_numerics(told: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a run's numerics, completed by what only the machines that computed could tell; where they differ, all they said.

    Args:
        told: what the driver knows.
        classes: the classes of the run's parts.
    """
    found = dict(told)
    for name in dict.fromkeys(name for one in classes for name in one if name not in told):
        values = list(dict.fromkeys(one[name] for one in classes if name in one))
        found[name] = values[0] if len(values) == 1 else " | ".join(map(str, values))
    return found


def _unit_rows(source: ModelSource | None, batch: int, on_gpu: bool) -> int:
    if source is None or not on_gpu:
        return batch * CPU_UNIT_BATCHES
    height, width = source.card.image_size
    return batch * max(1, CHUNK_BYTES // (height * width * 3) // batch)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_name(device: str) -> str:
    """Return the device kind that numerics depend on: a GPU's name, or a CPU's architecture and vector instructions."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
