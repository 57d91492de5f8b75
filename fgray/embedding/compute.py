"""How the embedding work is cut and spread on this machine, and which of that the numbers depend on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from fgray.config.schema import ComputeConfig
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
        """Return the numerics class: equal classes give equal bytes, others agree to about 1e-5."""
        packages = {name: _version(name) for name in ("torch", "pillow", "numpy", "transformers", "open_clip_torch", "timm", "torchvision")}
        return {
            "device": device_name(self.device),
            "dtype": source.card.dtype,
            "batch": self.batch_size,
            "threads": self.threads,
            **packages,
        }


def resolve_compute(config: ComputeConfig, source: ModelSource | None, previous: Mapping[str, Any] | None = None) -> Compute:
    """Replace every "auto" by what suits this machine and model.

    Args:
        config: what the user wrote.
        source: the model, for the size of its input; None where nothing is embedded.
        previous: what an interrupted run on the same output had resolved; on the same kind of device its batch and unit
            sizes are kept, so that the rest is computed in the same numerics class.

    Raises:
        ConfigError: the device is cuda and torch finds no GPU.
    """
    import torch

    device: str = config.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU for device cuda", where="compute.device", fix="say cpu or auto; `fgray doctor` shows devices")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    cores = os.cpu_count() or 1
    kept = previous if previous is not None and previous.get("device") == device else {}
    devices = max(1, torch.cuda.device_count()) if on_gpu else max(1, cores // config.threads)
    workers = devices if config.workers == "auto" else config.workers
    decoders = (cores if on_gpu else max(1, cores // 4)) if config.decode_workers == "auto" else config.decode_workers
    batch = kept.get("batch_size", 256 if on_gpu else 32) if config.batch_size == "auto" else config.batch_size
    rows = kept.get("unit_rows", _unit_rows(source, batch, on_gpu)) if config.unit_rows == "auto" else config.unit_rows
    return Compute(config.runner, device, workers, decoders, batch, rows, config.threads)


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
