"""How the embedding work is cut and spread on this machine or a cluster, and which of that the numbers depend on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from fgray.config.schema import ComputeConfig
from fgray.engine.cluster import Cluster, cluster
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
    device, cores, gpus = _machine(config) if mine is None else _of_cluster(config, mine)
    on_gpu = device == "cuda"
    kept = previous if previous is not None and previous.get("device") == device else {}
    decoders = (cores if on_gpu else max(1, cores // 4)) if config.decode_workers == "auto" else config.decode_workers
    # A cluster has no more logical CPUs than it has; this machine's cores are shared by decoders and models.
    free = cores if mine is None else cores - decoders
    devices = max(1, gpus) if on_gpu else max(1, free // config.threads)
    workers = devices if config.workers == "auto" else config.workers
    batch = kept.get("batch_size", 256 if on_gpu else 32) if config.batch_size == "auto" else config.batch_size
    rows = kept.get("unit_rows", _unit_rows(source, batch, on_gpu)) if config.unit_rows == "auto" else config.unit_rows
    return Compute(config.runner, device, workers, decoders, batch, rows, config.threads)


def _machine(config: ComputeConfig) -> tuple[str, int, int]:
    """Return device kind, cores and GPUs of this machine."""
    import torch

    found = config.device
    if found == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU for device cuda", where="compute.device", fix="say cpu or auto; `fgray doctor` shows devices")
    if found == "auto":
        found = "cuda" if torch.cuda.is_available() else "cpu"
    return found, os.cpu_count() or 1, torch.cuda.device_count() if found == "cuda" else 0


def _of_cluster(config: ComputeConfig, mine: Cluster) -> tuple[str, int, int]:
    """Return device kind, CPUs and GPUs of the nodes that a cluster can have; this process itself may run where there is no GPU."""
    cpus, gpus = int(mine.most.get("CPU", 0)), int(mine.most.get("GPU", 0))
    if config.device == "cuda" and not gpus:
        raise ConfigError(f"no node of the cluster '{mine.name}' has a GPU", where="compute.device", fix="say cpu or auto")
    if cpus < 1:
        raise ConfigError(f"no node of the cluster '{mine.name}' has a CPU for work", where="available_node_types", fix="add worker nodes")
    device = config.device if config.device != "auto" else "cuda" if gpus else "cpu"
    # Beside a GPU every model worker takes CPUs, too; what they leave decodes.
    return device, max(1, cpus - gpus * config.threads) if device == "cuda" else cpus, gpus


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
