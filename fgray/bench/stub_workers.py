"""Units for Ray without a model: workers that sleep, to hold the simulator against, and workers that keep a core busy each."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from fgray.engine.progress import Progress
from fgray.engine.run import drive
from fgray.engine.stages import Arrays, Chunk, Receipt, Stage, StageFunction
from fgray.engine.store import ResultStore
from fgray.engine.units import Unit, item_ids, make_units

KIND = "stub"
ROUNDS = 2_000_000  # of PBKDF2, about a second of one core


class Sleep:
    """Takes its time, and no core."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return one number per item."""
        time.sleep(self.seconds)
        return {"value": np.zeros((chunk.items.num_rows, 1), np.float32)}


class Compute:
    """Keeps one core busy for a fixed amount of work."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def __call__(self, chunk: Chunk) -> Arrays:
        """Return one number per item."""
        hashlib.pbkdf2_hmac("sha256", b"stub", b"salt", self.rounds)
        return {"value": np.zeros((chunk.items.num_rows, 1), np.float32)}


def sleeping(seconds: float, workers: int) -> Stage:
    """Return the stage whose units sleep."""
    return Stage("model", partial(_build, Sleep, seconds), workers=workers, cpus=1 / 64)


def computing(rounds: int, workers: int) -> Stage:
    """Return the stage whose units compute."""
    return Stage("model", partial(_build, Compute, rounds), workers=workers)


def _build(kind: type[Sleep | Compute], amount: float) -> StageFunction:
    return kind(amount)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Times:
    """Seconds from the start of a run to each of its commits, in their order."""

    commits: list[float]

    def after(self, first: int) -> float:
        """Return the seconds from the commit of that number (from 1 on) to the last one."""
        return self.commits[-1] - self.commits[first - 1]

    def rate(self, first: int) -> float:
        """Return units per second after the commit of that number."""
        return (len(self.commits) - first) / self.after(first)


def run_on_ray(units: int, stage: Stage, rows: int = 4) -> Times:
    """Run stub units through the engine on Ray, into a store that goes afterwards."""
    from fgray.engine.ray_data import run_ray

    items = pa.table({"item_id": item_ids(KIND, "stub", (str(number).encode() for number in range(units * rows)))})
    times: list[float] = []

    def run(some: Sequence[Unit]) -> Iterator[Receipt]:
        for receipt in run_ray(some, [stage], store, {}):
            times.append(time.monotonic() - begun)
            yield receipt

    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as folder:
        store, plan = ResultStore(folder, "stub"), make_units(KIND, items, rows)
        begun = time.monotonic()
        with Progress(len(plan), items.num_rows, [stage], task="stub") as progress:
            drive(plan, run, store, {}, progress)
    return Times(times)
