"""The forecast of a training run: steps, pairs per second, memory under ZeRO, checkpoints, time and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgray.config.train import TrainClipJob, TrainCompute
from fgray.embedding import resolve_compute
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.plan import devices
from fgray.launch.plan.architecture import architecture_of
from fgray.launch.plan.calibration import Calibration, rate_key
from fgray.launch.plan.cost import Cost, cost_of
from fgray.launch.plan.devices import TRAINING_EFFICIENCY
from fgray.launch.plan.memory import Memory, check_memory, trained_parameters, training_memory
from fgray.launch.plan.place import Place, Pool, place_of
from fgray.launch.plan.rates import MEAN_IMAGE_BYTES, Rate, decode_seconds
from fgray.launch.plan.shape import Refusal, check_nodes, check_training
from fgray.launch.status import duration

if TYPE_CHECKING:
    from fgray.training.sources import Source

PAIR, STEP = "pair", "step"  # kind and stage of a training's rate in the calibration
_START = {"serial": 5.0, "ray": 20.0}  # seconds until the first step: imports, Ray Train's start
_NETWORK_GBPS = 10.0  # between nodes, for the exchange of gradients
_READERS = 2  # threads that decode for a worker, at least


@dataclass(frozen=True)
class TrainForecast:
    """What a training run will take.

    Attributes:
        steps, epochs: its length.
        pairs: of the sources, and `sources` their names.
        stages: decode, compute, exchange -> pairs per second that each alone would allow; None: not known.
        rate: seconds of one worker for a pair, with the runs that measured it.
        seconds: of the whole; None: not known.
        memory: of one worker.
        checkpoint_bytes: of one, and `checkpoints_bytes` of all that lie there at a time.
    """

    job: TrainClipJob
    place: Place
    steps: int
    epochs: float
    sources: tuple[tuple[str, int], ...]
    stages: dict[str, float]
    rate: Rate
    seconds: float | None
    startup: float
    memory: Memory | None
    checkpoint_bytes: float
    checkpoints_bytes: float
    cost: Cost | None
    refusals: tuple[Refusal, ...]

    @property
    def pairs_per_second(self) -> float | None:
        """The rate of the whole run."""
        return min(self.stages.values()) if self.rate.seconds is not None and self.stages else None

    @property
    def limiting_stage(self) -> str:
        """What is slowest: decode, compute or exchange."""
        return min(self.stages, key=lambda stage: self.stages[stage]) if self.rate.seconds is not None else "unknown"

    def facts(self) -> dict[str, Any]:
        """Return what run.json says under "plan"."""
        speed = self.pairs_per_second
        return {
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "startup_seconds": round(self.startup, 3),
            "pairs_per_second": None if speed is None else round(speed, 3),
            "limiting_stage": self.limiting_stage,
            "calibrated_by_runs": self.rate.runs,
            "gflop_per_pair": round(weight_of(self.job), 6),
            "memory_gib": {} if self.memory is None else {"a training worker": round(self.memory.total, 3)},
            "device": None if self.place.device is None else self.place.device.name,
            "place": self.place.kind,
            "checkpoint_bytes": round(self.checkpoint_bytes),
            "cost": None
            if self.cost is None or self.cost.total is None
            else {"total": round(self.cost.total, 4), "currency": self.cost.currency},
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the forecast's lines for the console."""
        job, compute = self.job, self.job.compute
        rows = [(name, f"{pairs:,} pairs") for name, pairs in self.sources]
        rows.append(("length", f"{self.steps:,} steps of {job.batch_size:,} pairs, {self.epochs:.2f} passes over the first source"))
        rows.append(("workers", f"{compute.workers} on {self._device()}, ZeRO {compute.zero}, {compute.precision}"))
        if self.memory is not None:
            rows.append(("memory, a worker", self.memory.line()))
        kept = f"{self.checkpoints_bytes / 2**30:.2g} GiB with {job.checkpoints.keep} kept and one being written"
        rows.append(("checkpoints", f"{self.checkpoint_bytes / 2**30:.2g} GiB each, {kept}"))
        rows.append(("time", self._time()))
        if self.cost is not None:
            rows.append(("cost", self.cost.line()))
        if not self.rate.runs and self.place.device is not None:
            device = self.place.device
            speed = f"{TRAINING_EFFICIENCY:.0%} of {device.tflops16:g} TFLOP/s in 16 bits, {device.tflops32:g} in fp32"
            core = f"{device.gflops('fp32', 1):g} GFLOP/s per thread"
            rows.append(("assumed", f"{device.name}: {speed if device.is_gpu else core}; {_NETWORK_GBPS:g} Gb/s between nodes"))
        return rows + [("output", job.output)]

    def _device(self) -> str:
        return "a GPU that is not in the table" if self.place.device is None else self.place.device.name

    def _time(self) -> str:
        speed = self.pairs_per_second
        if speed is None or self.seconds is None:
            return "nothing is known of this device's speed; a first run of a few steps calibrates the plan"
        basis = f"calibrated on {self.rate.runs} run{'s' if self.rate.runs != 1 else ''}" if self.rate.runs else "by formula"
        return f"about {duration(self.seconds)} at {speed:,.1f} pairs/s, limited by {self.limiting_stage} ({basis})"


def forecast_training(
    job: TrainClipJob, file: ClusterFile | None, calibration: Calibration, sources: Sequence[Source] | None = None
) -> TrainForecast:
    """Return the forecast of a training job; its sources are read, its model is not.

    Args:
        job: the configuration.
        file: the cluster; None: this machine.
        calibration: of earlier runs.
        sources: what is trained on, where it was read already.

    Raises:
        FgrayError: whatever is wrong with data or model.
    """
    from fgray.training.model import open_trainable_source
    from fgray.training.sources import load_sources
    from fgray.training.worker import cache_of, order_of

    card = open_trainable_source(job.model).card
    sources = load_sources(job, cache_of(job)) if sources is None else list(sources)
    order = order_of(job, sources)
    steps = job.steps or order.steps(job.epochs or 1)
    device = device_kind(job)
    place, on_gpu, compute = place_of(file, device), device == "cuda", job.compute
    file = place.file  # what a job was told of its own cluster counts as its file
    known = architecture_of(job.model)
    assert known is not None  # whatever can be trained is an open_clip architecture
    trained, _, _ = trained_parameters(known, job.freeze)
    sizes = [value for source in sources for value in source.index.table["length"].to_pylist()[:10_000] if value]
    encoded = sum(sizes) / len(sizes) if sizes else MEAN_IMAGE_BYTES
    pool = training_pool(compute, device)
    rate = training_rate(job, card.architecture, place, calibration)
    stages = _stages(job, rate, encoded, trained, on_gpu, place)
    seconds = None
    startup = _START[compute.runner] + 4 * known.parameters / 5e8 + place.boot_seconds
    if rate.seconds is not None:
        seconds = startup + steps * job.batch_size / min(stages.values())
    memory = training_memory(known, job, compute.workers, on_gpu)
    bytes_each = trained * (4 + (8 if job.optimizer.name == "adamw" else 0) + (4 if job.optimizer.ema is not None else 0))
    stay = job.checkpoints.keep + 1 + (1 if job.selection is not None else 0)
    return TrainForecast(
        job,
        place,
        steps,
        steps / order.steps_per_epoch,
        tuple((source.name, len(source)) for source in sources),
        stages,
        rate,
        seconds,
        startup,
        memory,
        float(bytes_each),
        float(bytes_each * stay),
        cost_of([pool], file, seconds) if file is not None else None,
        tuple(_refusals(job, pool, place, memory, on_gpu)),
    )


def training_pool(compute: TrainCompute, device: str) -> Pool:
    """Return the workers that train on a device: "cpu" or "cuda"."""
    return Pool("training", compute.workers, compute.threads, 1 if device == "cuda" else 0, "compute.workers")


def training_rate(job: TrainClipJob, architecture: str, place: Place, calibration: Calibration) -> Rate:
    """Return the seconds of one worker for a pair."""
    if place.device is None:
        return Rate(None, 0)
    compute = job.compute
    weight = weight_of(job)
    device = place.rates_of or ""
    measured = calibration.per_item(rate_key(device, architecture, compute.precision, compute.threads), PAIR, STEP, weight)
    if measured is not None:
        return Rate(*measured)
    parallel = 1 if place.device.is_gpu else compute.threads
    return Rate(weight / (place.device.gflops(compute.precision, TRAINING_EFFICIENCY) * parallel), 0)


def weight_of(job: TrainClipJob) -> float:
    """Return the operations of a pair, in GFLOP: forward and backward of its images, texts and regions.

    A backward pass takes twice a forward one; a frozen tower has none, cached micro-batches and recomputed layers cost a forward pass more.
    """
    known = architecture_of(job.model)
    assert known is not None
    _, visual, other = trained_parameters(known, job.freeze)
    images, texts = 1.0 + job.negatives.images, 1.0 + job.negatives.texts
    if job.negatives.image_pairs:
        texts *= images
    part = job.batch_size // job.compute.workers
    again = job.compute.accumulation == "cached" and (job.compute.micro_batch or part) < part
    extra = (1 if again else 0) + (1 if job.compute.activation_checkpointing else 0)
    image = known.image.gflop * ((3 + extra) if visual else 1)
    total = images * image + texts * known.text.gflop * ((3 + extra) if other else 1)
    if job.regions is not None:
        total += job.regions.most * (image if job.regions.teacher == "live" else known.image.gflop)
    return total


def _stages(job: TrainClipJob, rate: Rate, encoded: float, trained: int, on_gpu: bool, place: Place) -> dict[str, float]:
    """Return the pairs per second that decoding, computing and the exchange of gradients alone would allow."""
    workers = job.compute.workers
    readers = max(_READERS, job.compute.threads)
    seconds = decode_seconds(encoded) * (1 + job.negatives.images)
    stages = {"decode": workers * readers / seconds}
    if place.file is None:
        stages["decode"] = min(stages["decode"], place.cores / seconds)
    if rate.seconds:
        stages["compute"] = workers / rate.seconds
        if not on_gpu and place.file is None and not rate.runs:  # decoding takes its share of the same cores
            stages["compute"] = min(stages["compute"], place.cores / (rate.seconds * job.compute.threads + seconds))
    if workers > 1 and place.file is not None:
        exchanged = 2 * 4 * trained * (workers - 1) / workers  # of a ring, per step
        stages["exchange"] = job.batch_size / (exchanged / (_NETWORK_GBPS * 1e9 / 8))
    return {name: value for name, value in stages.items() if math.isfinite(value)}


def _refusals(job: TrainClipJob, pool: Pool, place: Place, memory: Memory, on_gpu: bool) -> list[Refusal]:
    import torch

    found = check_training(pool, place, torch.cuda.device_count()) if job.compute.runner == "ray" else []
    if on_gpu:
        room = None if place.device is None else place.device.memory_gib
        return found + check_memory(memory, room, f"the {place.device.name}" if place.device else "the GPU", _fixes(job), "compute")
    if place.file is None:
        together = Memory({name: size * pool.workers for name, size in memory.parts.items()})
        return found + check_memory(together, devices.own_memory_gib(), "this machine", _fixes(job), "compute", "the workers need")
    return found or check_nodes([pool], {pool.name: memory.total}, place, _fixes(job), "compute")


def _fixes(job: TrainClipJob) -> str:
    compute = job.compute
    fixes = ["set a smaller compute.micro_batch"]
    if not compute.activation_checkpointing:
        fixes.append("compute.activation_checkpointing: true")
    if compute.zero < 3 and compute.workers > 1:
        fixes.append(f"compute.zero: {compute.zero + 1}")
    return ", or ".join(fixes)


def device_kind(job: TrainClipJob) -> str:
    """Return what a job trains on, "cpu" or "cuda", with "auto" resolved."""
    from fgray.config.schema import ComputeConfig

    return resolve_compute(ComputeConfig(device=job.compute.device), None).device
