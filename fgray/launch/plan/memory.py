"""Memory of a worker: weights, activations and the unit in its hands; in training gradients and optimizer states under ZeRO.

Training follows "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (Rajbhandari et al., 2020) with what fgray does
differently: weights, gradients and moments are fp32 whatever the arithmetic, 4 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fgray.config.train import TrainClipJob
from fgray.engine.store import READ_AHEAD
from fgray.launch.plan.architecture import Architecture, Tower
from fgray.launch.plan.shape import IN_FLIGHT, ROOM, Refusal

GIB = 2**30
PROCESS_GIB = 0.7  # of host memory: Python with torch and open_clip
CONTEXT_GIB = 0.6  # of a GPU: CUDA's own, with its libraries
ITEM_BYTES = 250  # of an item in the driver: its address, its place and its error as Python objects
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_BUCKET_GIB = 2 * 50_000_000 * 4 / GIB  # DeepSpeed's communication buffers at stages 1 to 3, see fgray.training.engine
_LAYER_INPUTS = 1 / 14  # of what a transformer layer saves, when its insides are computed again


@dataclass(frozen=True)
class Memory:
    """What one worker needs at most, in GiB.

    Attributes:
        parts: name -> GiB.
    """

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(self.parts.values())

    def line(self) -> str:
        """Return the sum and its parts."""
        parts = ", ".join(f"{name} {size:.2g}" for name, size in self.parts.items() if size >= 0.005)
        return f"{self.total:.1f} GiB ({parts})"


def embedding_memory(
    architecture: Architecture, dtype: str, batch: int, unit_rows: int, image_size: tuple[int, int], on_gpu: bool
) -> Memory:
    """Return the memory of a model worker; on a GPU that of the GPU, else that of its process."""
    height, width = image_size
    share = _BYTES[dtype] / 4
    most = max(architecture.image.forward_bytes, architecture.text.forward_bytes)
    parts = {
        "weights": architecture.parameters * _BYTES[dtype] / GIB,
        "activations": batch * (most * share + height * width * 3 * (4 + 4 * share)) / GIB,
    }
    if on_gpu:
        return Memory({**parts, "CUDA": CONTEXT_GIB})
    return Memory({**parts, "units": IN_FLIGHT * unit_rows * height * width * 3 / GIB, "process": PROCESS_GIB})


def decode_memory(unit_rows: int, image_size: tuple[int, int], encoded: float) -> Memory:
    """Return the memory of a decode worker's process."""
    height, width = image_size
    return Memory({"units": IN_FLIGHT * unit_rows * (height * width * 3 + encoded) / GIB, "process": PROCESS_GIB})


def driver_memory(items: int, dimension: int, unit_rows: int) -> Memory:
    """Return the memory of the process that scores, which holds every embedding; cases and the scores of a pool come on top."""
    row = 4 * dimension
    parts = {"embeddings": row * items, "items": ITEM_BYTES * items, "parts being read": 3 * min(READ_AHEAD * unit_rows, items) * row}
    return Memory({**{name: size / GIB for name, size in parts.items()}, "process": PROCESS_GIB})


def trained_parameters(architecture: Architecture, freeze: Sequence[str]) -> tuple[int, int, int]:
    """Return how many parameters move: in all, of the image tower, and of everything else."""
    moving = [(name, count) for name, count in architecture.names if not any(fnmatchcase(name, pattern) for pattern in freeze)]
    visual = sum(count for name, count in moving if name.startswith("visual."))
    whole = sum(count for _, count in moving)
    return whole, visual, whole - visual


def state_bytes(parameters: int, trained: int, largest: int, stage: int, workers: int, moments: int = 2) -> dict[str, float]:
    """Return bytes of one worker for weights, gradients and optimizer states under ZeRO.

    Args:
        parameters: of the whole model.
        trained: those that are not frozen.
        largest: of the largest module, which stage 3 gathers whole.
        stage: 0 to 3.
        workers: that share the states.
        moments: of the optimizer: 2 for AdamW, 0 for SGD.
    """
    weights, gradients, states = 4.0 * parameters, 4.0 * trained, 4.0 * moments * trained
    if stage >= 1:
        copies = 4.0 * trained * (1 if stage == 3 else 2)  # the optimizer's own weights, and the gradient in one piece
        states = (states + copies) / workers
    if stage >= 2:
        gradients /= workers
    if stage == 3:
        weights = weights / workers + 2 * 4.0 * largest  # one in use, the next on its way
    return {"weights": weights, "gradients": gradients, "optimizer": states}


def training_memory(architecture: Architecture, job: TrainClipJob, workers: int, on_gpu: bool) -> Memory:
    """Return the memory of one training worker; on a GPU that of the GPU, else that of its process.

    Texts count with their full length; shorter ones need less.
    """
    compute = job.compute
    trained, visual, other = trained_parameters(architecture, job.freeze)
    moments = 2 if job.optimizer.name == "adamw" else 0
    states = state_bytes(architecture.parameters, trained, architecture.largest, compute.zero, workers, moments)
    parts = {name: size / GIB for name, size in states.items()}
    if job.optimizer.ema is not None:
        parts["moving average"] = 4 * trained / (workers if compute.zero == 3 else 1) / GIB
    if job.regions is not None and job.regions.teacher in ("ema", "frozen"):
        parts["teacher"] = 4 * architecture.image.parameters / GIB
    share = _BYTES[compute.precision] / 4
    if share < 1:
        parts["16-bit weights"] = 2 * architecture.parameters / (workers if compute.zero == 3 else 1) / GIB
    if compute.zero:
        parts["buffers"] = min(_BUCKET_GIB, 8 * trained / GIB)
    samples = compute.micro_batch or max(1, job.batch_size // workers)
    images = samples * (1 + job.negatives.images)
    texts = samples * (1 + job.negatives.texts) * (1 + job.negatives.images if job.negatives.image_pairs else 1)
    image, text = _kept(architecture.image, visual, job), _kept(architecture.text, other, job)
    parts["activations"] = share * (images * image + texts * text) / GIB
    if job.regions is not None:
        parts["regions"] = share * samples * _region_bytes(architecture, visual, job) / GIB
    parts["logits"] = 3 * 4 * (job.batch_size / workers) * job.batch_size * (1 + job.negatives.texts) / GIB
    parts["CUDA" if on_gpu else "process"] = CONTEXT_GIB if on_gpu else PROCESS_GIB
    return Memory(parts)


def host_memory(architecture: Architecture, unit_rows: int, image_size: tuple[int, int]) -> Memory:
    """Return the memory of the process of a model worker that computes on a GPU."""
    height, width = image_size
    units = IN_FLIGHT * unit_rows * height * width * 3
    return Memory({"weights": 4 * architecture.parameters / GIB, "units": units / GIB, "process": PROCESS_GIB})


def check_memory(memory: Memory, room: float | None, where: str, fixes: str, setting: str, who: str = "a worker needs") -> list[Refusal]:
    """Return whether a worker, or all of them, need more than there is.

    Args:
        memory: what it needs.
        room: GiB that there are; None: not known.
        where: whose memory, for the message.
        fixes: what makes it smaller.
        setting: the configuration key.
        who: needs it, with the verb.
    """
    if room is None or memory.total <= ROOM * room:
        return []
    return [Refusal(f"{who} about {memory.line()}, {where} has {room:.0f}", setting, fixes)]


def _kept(tower: Tower, trained: int, job: TrainClipJob) -> float:
    """Return the bytes that one item keeps for the backward pass, in fp32."""
    if not trained:
        return tower.forward_bytes
    if job.compute.activation_checkpointing:
        return tower.saved_bytes * _LAYER_INPUTS + 2 * tower.forward_bytes
    return tower.saved_bytes


def _region_bytes(architecture: Architecture, trained: int, job: TrainClipJob) -> float:
    regions = job.regions
    assert regions is not None
    crops = regions.most * (_kept(architecture.image, trained, job) if regions.teacher == "live" else architecture.image.forward_bytes)
    return crops
