"""Toy items and stages: numbers that are squared, some of which are poison. The engine must not need to know what they are."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from fgray.engine.stages import Chunk, Stage
from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE, item_id


def number_items(numbers) -> pa.Table:
    ids = [item_id("square", "toy", str(n).encode()) for n in numbers]
    return pa.table({"item_id": pa.array(ids, ID_TYPE), "number": pa.array(list(numbers), pa.int64())})


class Widen:
    def __call__(self, chunk: Chunk):
        numbers = np.array(chunk.items["number"].to_pylist(), np.float32)
        for row, number in enumerate(numbers):
            if number < 0:
                chunk.errors[row] = "decode: negative"
        return {"pair": np.stack([numbers, numbers], axis=1)}


class Square:
    """Squares; `poison` numbers kill the process or run out of memory; `calls` counts how often each was computed.

    With `how` "stillborn" the process dies before it is built.
    """

    def __init__(self, how: str, poison: frozenset[int], calls: Path | None) -> None:
        if how == "stillborn":
            os.kill(os.getpid(), signal.SIGKILL)
        self.how, self.poison, self.calls = how, poison, calls

    def __call__(self, chunk: Chunk):
        numbers = chunk.items["number"].to_pylist()
        if self.poison & set(numbers):
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "memory":
                raise MemoryError("too large")
            raise ValueError("a bug in the stage")
        if self.calls is not None:
            for number in numbers:
                with (self.calls / f"{number}-{os.getpid()}-{os.urandom(4).hex()}").open("w"):
                    pass
        return {"value": chunk.arrays["pair"] ** 2}


class KillingStore(ResultStore):
    """A store whose first commit is the last act of its process: the part is there, but nobody hears of it."""

    def commit(self, kind: str, table: pa.Table, numerics) -> str:
        name = super().commit(kind, table, numerics)
        try:
            (Path(self.uri) / "killed").touch(exist_ok=False)
        except FileExistsError:
            return name
        os.kill(os.getpid(), signal.SIGKILL)
        return name


def toy_stages(how: str = "none", poison=(), calls: Path | None = None, workers: int = 1) -> list[Stage]:
    return [
        Stage("widen", Widen, workers=1),
        Stage("square", partial(Square, how, frozenset(poison), calls), workers=workers),
    ]
