"""Vectors in a worker's memory: the block of queries it works on, and the range of the corpus that it keeps from unit to unit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgray.mining.screen import Corpus
from fgray.mining.vectors import VectorSet

TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class BlockReader:
    """Reads stored rows of a vector set as tensors; keeps the block that it read last."""

    def __init__(self, vectors: VectorSet) -> None:
        self.vectors, self.number, self.last = vectors, -1, torch.empty(0)

    def block(self, number: int) -> Tensor:
        """Return a block as stored, [n, dim]."""
        if self.number != number:
            self.last = as_tensor(self.vectors, number)
            self.number = number
        return self.last

    def take(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return ascending rows, [n, dim]."""
        numbers = rows // self.vectors.block_rows
        parts = [self.block(int(n))[torch.from_numpy(rows[numbers == n] - n * self.vectors.block_rows)] for n in np.unique(numbers)]
        return torch.cat(parts)


def as_tensor(vectors: VectorSet, number: int) -> Tensor:
    """Return a block as stored, in torch's type for it."""
    values = torch.from_numpy(vectors.stored(number))
    return values.view(torch.bfloat16) if vectors.dtype == "bf16" else values


class ResidentRange:
    """A range of the corpus in this worker's memory, filled while the first unit already works on it."""

    def __init__(self, vectors: VectorSet, rows: int, device: str) -> None:
        self.vectors, self.span = vectors, (0, 0)
        self.memory = torch.empty((rows, vectors.dim), dtype=TORCH_TYPES[vectors.dtype], device=device)
        self.corpus = Corpus(self.memory)

    def open(self, start: int, stop: int) -> tuple[Corpus, Iterator[tuple[int, int]]]:
        """Return the range and the (start, stop) of its rows, relative to it, as they become readable."""
        if self.span == (start, stop):
            return self.corpus, iter([(0, stop - start)])
        self.corpus = Corpus(self.memory[: stop - start])
        return self.corpus, self._fill(start, stop)

    def _fill(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        self.span = (0, 0)
        size = self.vectors.block_rows
        numbers = range(start // size, -(-stop // size))
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(as_tensor, self.vectors, numbers[0])
            for number in numbers:
                block = ahead.result()
                if number + 1 in numbers:
                    ahead = pool.submit(as_tensor, self.vectors, number + 1)
                at = number * size - start
                self.memory[at : at + len(block)] = block
                yield at, at + len(block)
        self.span = (start, stop)
