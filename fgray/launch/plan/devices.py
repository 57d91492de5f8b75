"""What devices can do, by their makers' tables, and which device a cluster's node has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fgray.launch.clusters.file import ClusterFile, NodeType

INFERENCE_EFFICIENCY = 0.40  # of the peak that dense forward passes reach; measured for ViT on A100 and H100: 35 to 45 %
TRAINING_EFFICIENCY = 0.35
CPU_GFLOPS = 60.0  # fp32 per core that a ViT-B/32 reaches on a server core with AVX-512; AVX2 gives about half


@dataclass(frozen=True)
class Device:
    """One accelerator, or one core of a CPU.

    Attributes:
        name: as torch calls it; calibrations are kept by this name.
        tflops16: dense peak in bf16 (fp16 where the device has no bf16).
        tflops32: peak in fp32 without TF32, which torch does not use by default.
        memory_gib: of one accelerator; 0: a core, whose memory is the node's.
    """

    name: str
    tflops16: float
    tflops32: float
    memory_gib: float = 0.0

    @property
    def is_gpu(self) -> bool:
        """Whether it has a memory of its own."""
        return self.memory_gib > 0

    def gflops(self, dtype: str, efficiency: float) -> float:
        """Return the GFLOP per second that a model reaches in an arithmetic."""
        if not self.is_gpu:
            return CPU_GFLOPS
        return 1000 * efficiency * (self.tflops32 if dtype == "fp32" else self.tflops16)


_GPUS: dict[str, Device] = {  # short name, as Ray's accelerator_type has it -> makers' data sheets
    "T4": Device("Tesla T4", 65, 8.1, 15),
    "V100": Device("Tesla V100-SXM2-16GB", 125, 15.7, 16),
    "L4": Device("NVIDIA L4", 121, 30.3, 22),
    "A10G": Device("NVIDIA A10G", 70, 31.2, 22),
    "L40S": Device("NVIDIA L40S", 362, 91.6, 44),
    "A100": Device("NVIDIA A100-SXM4-40GB", 312, 19.5, 39),
    "A100-80G": Device("NVIDIA A100-SXM4-80GB", 312, 19.5, 79),
    "H100": Device("NVIDIA H100 80GB HBM3", 989, 67, 79),
    "H200": Device("NVIDIA H200", 989, 67, 139),
    "B200": Device("NVIDIA B200", 2250, 80, 178),
}
_MACHINES = {  # the start of a machine's name -> its GPU (AWS, GCP)
    "g4dn.": "T4",
    "p3.": "V100",
    "g6.": "L4",
    "g6e.": "L40S",
    "g5.": "A10G",
    "p4d.": "A100",
    "p4de.": "A100-80G",
    "p5.": "H100",
    "p5e.": "H200",
    "p5en.": "H200",
    "p6-b200.": "B200",
    "g2-standard": "L4",
    "a2-highgpu": "A100",
    "a2-megagpu": "A100",
    "a2-ultragpu": "A100-80G",
    "a3-": "H100",
    "a3-ultragpu": "H200",
    "a4-": "B200",
}


def this_machine(device: str) -> Device:
    """Return the device of this machine that a run on "cpu" or "cuda" uses."""
    from fgray.embedding.compute import device_name

    if not device.startswith("cuda"):
        return cpu_core(device_name("cpu"))
    import torch

    name, memory = device_name(device), torch.cuda.get_device_properties(0).total_memory / 2**30
    known = next((one for one in _GPUS.values() if one.name == name), None) or _alike(name)
    return Device(name, known.tflops16, known.tflops32, memory)


def cpu_core(name: str = "cpu x86_64 AVX512") -> Device:
    """Return one core of a CPU; of a cloud's machines it is assumed to have AVX-512."""
    return Device(name, 0, 0)


def gpu_of(node: NodeType) -> Device | None:
    """Return the GPU of a node: by its accelerator_type resource, its machine, or its accelerator labels; None: not known, or none."""
    for name in node.resources:
        if name.startswith("accelerator_type:") and (found := _short(name.partition(":")[2])) is not None:
            return found
    machine = node.machine or ""
    prefix = max((start for start in _MACHINES if machine.startswith(start)), key=len, default=None)
    return None if prefix is None else _GPUS[_MACHINES[prefix]]


def gpu_of_cluster(file: ClusterFile) -> Device | None:
    """Return the GPU of a cluster's workers: the slowest where there are several kinds; None where a kind is not known."""
    found = [gpu_of(node) or _labelled(file, node) for node in file.node_types if node.resources.get("GPU", 0) > 0]
    known = [one for one in found if one is not None]
    return min(known, key=lambda one: one.tflops16) if known and len(known) == len(found) else None


def own_memory_gib(root: str = "/") -> float:
    """Return the memory that this process may use: the machine's, or the smallest limit of a container or job around it.

    Args:
        root: of the file system that says so.
    """
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return min([most, *(limit / 2**30 for limit in _limits(Path(root)))])


def _limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups, of the second or the first version, in bytes."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        mount = root / "sys/fs/cgroup" / kinds
        file = "memory.limit_in_bytes" if kinds else "memory.max"
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):  # a container may see its own group as the root
            with suppress(OSError, ValueError):  # "max": no limit
                yield int((mount / folder / file).read_text())


def _labelled(file: ClusterFile, node: NodeType) -> Device | None:
    """Return the GPU that a node's own configuration names (GCP's guestAccelerators, Kubernetes' node selectors)."""
    types: Mapping[str, Any] = file.content.get("available_node_types") or {}
    text = str((types.get(node.name) or {}).get("node_config") or "").upper().replace("NVIDIA-", "").replace("TESLA-", "")
    names = [
        name for name in sorted(_GPUS, key=len, reverse=True) if name in text.replace("'", " ").replace("/", " ").replace("-", " ").split()
    ]
    return _GPUS[names[0]] if names else None


def _short(name: str) -> Device | None:
    return _GPUS.get(name) or _GPUS.get({"A100-40G": "A100"}.get(name, ""))


def _alike(name: str) -> Device:
    """Return the table's device whose short name stands in a GPU's name; the L4, a modest one, where none does."""
    words = name.replace("-", " ").split()
    return next((device for short, device in _GPUS.items() if short in words), _GPUS["L4"])
