"""The forecast of an embedding run: what an evaluation or a mining job asks of its model, on this machine or a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fgray.config.schema import ComputeConfig, ModelConfig
from fgray.embedding import IMAGE, REGION, TEXT, Compute, Work
from fgray.engine.units import Unit
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.plan import devices
from fgray.launch.plan.architecture import Architecture, architecture_of
from fgray.launch.plan.calibration import Calibration
from fgray.launch.plan.cost import Cost, cost_of
from fgray.launch.plan.memory import Memory, check_memory, decode_memory, driver_memory, embedding_memory, host_memory
from fgray.launch.plan.pipeline import Flow, flow
from fgray.launch.plan.place import Place, Pool, is_here, pack, place_of
from fgray.launch.plan.rates import Asked, Model, Rate, assumptions, rates_of
from fgray.launch.plan.shape import Refusal, check_nodes, check_object_store, check_pools, check_units, memory_gib
from fgray.launch.status import duration
from fgray.models.base import ModelCard

_SAMPLE = 1000  # units that are looked at for the mean size of an image
_START = {"serial": 4.0, "ray": 14.0}  # seconds until a worker computes: imports, and Ray's own start
_LOAD_BYTES = 5e8  # of weights per second
_S3_GBPS = 10.0  # of one node, where the cluster file does not say
_DISK_BYTES = 1e9
_NAMES = {IMAGE: "image", TEXT: "text", REGION: "region"}


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        place: where it runs.
        pools: its workers.
        asked: what is missing, by kind.
        rates: kind -> stage -> rate.
        flow: time of the stages.
        startup: seconds until the workers compute.
        memory: of one worker by its name.
        cost: on a cluster with prices.
        refusals: why the run must not start so.
        assumed: what stands behind numbers that no run has measured.
        after: seconds of work that follows the embedding.
    """

    place: Place
    pools: tuple[Pool, ...]
    asked: tuple[Asked, ...]
    rates: dict[str, dict[str, Rate]]
    flow: Flow
    startup: Rate
    memory: dict[str, Memory]
    cost: Cost | None
    refusals: tuple[Refusal, ...]
    assumed: tuple[str, ...] = field(default=())
    after: float = 0.0

    @property
    def seconds(self) -> float | None:
        """The whole time, start-up included; None where a rate is not known; 0 where nothing is left to compute."""
        if self.flow.seconds is None or not (self.asked or self.after):
            return self.flow.seconds
        return (self.startup.seconds or 0.0) + self.flow.seconds + self.after

    def facts(self) -> dict[str, Any]:
        """Return what run.json says under "plan"."""
        return {
            "seconds": _rounded(self.seconds),
            "startup_seconds": _rounded(self.startup.seconds) if self.asked else 0.0,
            "place": self.place.kind,
            "startup_key": startup_key(self.place, "" if not self.pools else _runner(self.pools)),
            "stages": {name: _rounded(value) for name, value in self.flow.stages.items()},
            "limiting_stage": self.flow.limiting_stage,
            "calibrated_by_runs": self.flow.calibrated,
            "kinds": {
                one.kind: {
                    "items": one.items,
                    "bytes": round(one.bytes, 1),
                    **{n: _rounded(r.seconds, 6) for n, r in self.rates[one.kind].items()},
                }
                for one in self.asked
            },
            "memory_gib": {name: round(one.total, 3) for name, one in self.memory.items()},
            "device": None if self.place.device is None else self.place.device.name,
            "cost": None
            if self.cost is None or self.cost.total is None
            else {"total": round(self.cost.total, 4), "currency": self.cost.currency},
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the forecast's lines for the console."""
        rows = []
        if self.asked:
            for name, memory in self.memory.items():
                rows.append((f"memory, {name}", memory.line()))
            rows.append(("stages", self._stages()))
        if self.asked or self.after:
            rows.append(("time", self._time()))
            if self.cost is not None:
                rows.append(("cost", self.cost.line()))
        if self.asked and not self.flow.calibrated:
            rows.append(("assumed", "; ".join(self.assumed)))
        return rows

    def _stages(self) -> str:
        parts = [f"{name} {duration(seconds)}" for name, seconds in self.flow.stages.items()]
        return f"limited by {self.flow.limiting_stage} (each alone: {', '.join(parts)})"

    def _time(self) -> str:
        basis = (
            f"calibrated on {self.flow.calibrated} run{'s' if self.flow.calibrated != 1 else ''}" if self.flow.calibrated else "by formula"
        )
        if self.seconds is None:
            return f"nothing is known of this model's speed; a first run (limit: {_SAMPLE}) calibrates the plan"
        search = f", {duration(self.after)} after they embedded" if self.after else ""
        return f"about {duration(self.seconds)}, {duration(self.startup.seconds or 0)} of it until the workers compute{search} ({basis})"


def forecast_embedding(
    work: Work,
    card: ModelCard,
    model: ModelConfig,
    compute: Compute,
    given: ComputeConfig,
    file: ClusterFile | None,
    on_s3: bool,
    calibration: Calibration,
    after: float = 0.0,
) -> Forecast:
    """Return the forecast of the embedding that a job needs.

    Args:
        work: what is asked and what is missing.
        card: of the model.
        model: its configuration section.
        compute: resolved workers and batches.
        given: as the configuration has them, for what is "auto".
        file: the cluster; None: this machine.
        on_s3: images or results lie on S3.
        calibration: of earlier runs.
        after: seconds that the same workers compute when all is embedded.
    """
    place = place_of(file, compute.device)
    file = place.file  # what a job was told of its own cluster counts as its file
    asked = tuple(asked_of(work))
    known = architecture_of(model)
    facts = Model(card.architecture, card.dtype, compute.threads, known)
    on_gpu = compute.device.startswith("cuda")
    pools = embedding_pools(compute)
    rates = {one.kind: rates_of(one, facts, place, compute.unit_rows, on_s3, calibration) for one in asked}
    workers = {pool.name: pool.workers for pool in pools} or {"decode": 1, "model": 1}
    cores = None if on_gpu else place.cores
    found = flow(asked, rates, workers, compute.unit_rows, _reading(place, pools, on_s3), cores, together=bool(pools))
    memory = _memory(known, card, compute, asked, on_gpu)
    driver = None if known is None else driver_memory(work.requested, known.dimension, compute.unit_rows)
    startup = _startup(place, compute.runner, known, calibration)
    needs = {"decode": memory["a decode worker"].total}
    if known is not None:
        host = host_memory(known, compute.unit_rows, card.image_size) if on_gpu else memory["a model worker"]
        needs["model"] = host.total
    refusals = _refusals(pools, place, work, card, compute, given, memory, needs, on_gpu) if asked else []
    if driver is not None and work.requested:
        memory["the driver"] = driver
        refusals += _driver_refusals(driver, place)
    total = None if found.seconds is None else found.seconds + (startup.seconds or 0) + after
    cost = cost_of(pools, file, total) if file is not None and (asked or after) else None
    return Forecast(place, pools, asked, rates, found, startup, memory, cost, tuple(refusals), tuple(assumptions(place, on_s3)), after)


def embedding_pools(compute: Compute) -> tuple[Pool, ...]:
    """Return the workers that embed; none where no Ray runs them."""
    if compute.runner != "ray":
        return ()
    decode = Pool("decode", compute.decode_workers, 1, 0, "compute.decode_workers")
    return decode, Pool("model", compute.workers, compute.threads, 1 if compute.device.startswith("cuda") else 0, "compute.workers")


def asked_of(work: Work) -> list[Asked]:
    """Return the missing items by kind with the mean size of their encoded images, from a sample of units where there are many."""
    step = -(-len(work.units) // _SAMPLE) if len(work.units) else 1
    looked: list[Unit] = [work.units[at] for at in range(0, len(work.units), step)]
    seen = sum(unit.items.num_rows for unit in looked)
    found = []
    for kind in (TEXT, IMAGE, REGION):
        mine = [unit for unit in looked if unit.kind == kind]
        items = sum(unit.items.num_rows for unit in mine)
        if not items:
            continue
        sizes = [value for unit in mine if "length" in unit.items.column_names for value in unit.items["length"].to_pylist() if value]
        # All where every unit was looked at, else their share.
        found.append(Asked(kind, items if step == 1 else round(work.missing * items / seen), sum(sizes) / len(sizes) if sizes else 0.0))
    return found


def startup_key(place: Place, runner: str) -> str:
    """Return the key under which start-up times are kept."""
    return f"{runner or 'serial'} | {place.kind}"


def _runner(pools: Sequence[Pool]) -> str:
    return "ray" if pools else "serial"


def _startup(place: Place, runner: str, known: Architecture | None, calibration: Calibration) -> Rate:
    measured = calibration.startup(startup_key(place, runner))
    if measured is not None:
        return Rate(*measured)
    load = 0.0 if known is None else 4 * known.parameters / _LOAD_BYTES
    return Rate(_START[runner] + load + place.boot_seconds, 0)


def _reading(place: Place, pools: Sequence[Pool], on_s3: bool) -> float:
    """Return the bytes per second that all readers together get."""
    if not on_s3:
        return _DISK_BYTES
    file = place.file
    nodes = 1 if file is None else max(1, sum(pack(pools, file)[0].values()))
    return nodes * (_S3_GBPS if file is None or file.options.s3_gbps is None else file.options.s3_gbps) * 1e9 / 8


def _memory(known: Architecture | None, card: ModelCard, compute: Compute, asked: Sequence[Asked], on_gpu: bool) -> dict[str, Memory]:
    encoded = max((one.bytes for one in asked), default=0.0)
    memory = {"a decode worker": decode_memory(compute.unit_rows, card.image_size, encoded)}
    if known is not None:
        name = "a GPU" if on_gpu else "a model worker"
        memory[name] = embedding_memory(known, card.dtype, compute.batch_size, compute.unit_rows, card.image_size, on_gpu)
    return memory


def _refusals(
    pools: Sequence[Pool],
    place: Place,
    work: Work,
    card: ModelCard,
    compute: Compute,
    given: ComputeConfig,
    memory: dict[str, Memory],
    needs: dict[str, float],
    on_gpu: bool,
) -> list[Refusal]:
    found = check_pools(pools, place) if pools else []
    height, width = card.image_size
    whole = -(-work.requested // compute.unit_rows)  # units, were nothing stored: a run that is resumed keeps its workers
    for pool, said in zip(pools, (given.decode_workers, given.workers), strict=False):
        if pool.name == "model" or work.images.num_rows or work.regions.num_rows:
            found += check_units(pool, said != "auto", max(whole, len(work.units)), compute.unit_rows)
    own = devices.own_memory_gib()
    if pools and not found:
        found += check_object_store(pools, compute.unit_rows * height * width * 3, place, own * 2**30)
        found += check_nodes(pools, needs, place)
    if on_gpu and (needed := memory.get("a GPU")) is not None:
        room = None if place.device is None else place.device.memory_gib
        name = "the GPU" if place.device is None else f"the {place.device.name}"
        found += check_memory(needed, room, name, "lower compute.batch_size", "compute.batch_size")
    if place.file is None and not on_gpu:
        parts = {
            name.removeprefix("a "): one.total * (compute.workers if "model" in name else compute.decode_workers)
            for name, one in memory.items()
        }
        found += check_memory(
            Memory(parts), own, "this machine", "lower compute.workers or compute.unit_rows", "compute.workers", "the workers need"
        )
    return found


def _driver_refusals(driver: Memory, place: Place) -> list[Refusal]:
    file = place.file
    room: float | None = devices.own_memory_gib()
    where, fix = "this machine", "a machine with more memory"
    if file is not None and not is_here(file):
        room, where, fix = memory_gib(file.head, file), f"the head of {place.name}", "a larger head node"
    return check_memory(driver, room, where, f"ask for less in one run, or take {fix}", "data", "the driver needs")


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
