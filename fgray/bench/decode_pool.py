"""The decode stage in a pool of processes that hand pixels over in shared memory: what Ray does for it, without Ray."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from fgray.embedding import IMAGE
from fgray.engine.stages import Chunk, Stage, StageFunction, run_stage
from fgray.engine.units import Unit
from fgray.errors import RunError

START_SECONDS = 300.0  # for a process to import the model's library and build its stage
UNITS_PER_WORKER = 2  # in flight, as in the engine on Ray


class DecodePool:
    """Runs one stage that makes ``pixels`` in `stage.workers` processes; all of them are ready when the constructor returns.

    Args:
        stage: the decode stage.
        shape: (rows of the largest unit, H, W, 3) of its pixels, uint8.

    Raises:
        RunError: the processes do not start.
    """

    def __init__(self, stage: Stage, shape: tuple[int, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and torch's threads
        self._stage, self._shape = stage, shape
        self._slots = [context.RawArray("B", prod(shape)) for _ in range(stage.workers * UNITS_PER_WORKER)]
        self._pool = ProcessPoolExecutor(stage.workers, context, _start, (stage, self._slots, context.Barrier(stage.workers)))
        try:
            # Each of these holds its process until the last one has come, so that no process gets two.
            for ready in [self._pool.submit(_await_others) for _ in range(stage.workers)]:
                ready.result()
        except Exception as error:
            self.close()
            what = f"the decode processes do not start ({type(error).__name__})"
            raise RunError(what, fix="lower options.decode_processes, or see what they printed") from error

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)

    def chunks(self, units: Sequence[Unit]) -> Iterator[Chunk]:
        """Yield the units decoded, as they are done; a chunk's pixels last until the next chunk is asked for."""
        waiting, free = iter(units), list(range(len(self._slots)))
        running: dict[Future[tuple[float, dict[int, str]]], tuple[Unit, int]] = {}
        while True:
            while free and (unit := next(waiting, None)) is not None:
                slot = free.pop()
                running[self._pool.submit(_decode, unit.items, slot)] = unit, slot
            if not running:
                return
            future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            unit, slot = running.pop(future)
            seconds, errors = future.result()
            pixels = np.frombuffer(self._slots[slot], np.uint8).reshape(self._shape)[: unit.items.num_rows]
            yield Chunk(unit.kind, unit.items, {"pixels": pixels}, errors, {self._stage.name: seconds})
            free.append(slot)


_worker: tuple[StageFunction, Sequence[Any], Any]  # of each decode process: the stage, the slots, the barrier


def _start(stage: Stage, slots: Sequence[Any], barrier: Any) -> None:
    global _worker
    _worker = stage.build(), slots, barrier


def _await_others() -> None:
    _worker[2].wait(START_SECONDS)


def _decode(items: pa.Table, slot: int) -> tuple[float, dict[int, str]]:
    """Put the pixels into the slot; only the seconds that took and the errors go through the pipe."""
    chunk, start = Chunk(IMAGE, items), time.perf_counter()
    run_stage("decode", _worker[0], chunk)
    pixels = chunk.arrays["pixels"]
    np.frombuffer(_worker[1][slot], np.uint8)[: pixels.size] = pixels.reshape(-1)
    return time.perf_counter() - start, chunk.errors
