"""Checkpoints to resume from: tensors by name in fp32, written whole in the background, on disk or S3.

A checkpoint is a folder ``step-00000500`` of ``state.safetensors`` and, written last, ``state.json``: its presence says that the
checkpoint is whole, and its hash tells a damaged one. Tensors are full ones, not a worker's part, so another number of workers and
another ZeRO stage read them as well.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fgray.errors import DataError
from fgray.storage import Storage

FOLDER = "checkpoints"
TENSORS = "state.safetensors"
FACTS = "state.json"
_FORMAT = "fgray checkpoint 1"
_NAME = re.compile(r"step-(\d{8})/")


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read.

    Attributes:
        step: steps that were done when it was written.
        tensors: name -> fp32 tensor on the CPU.
        facts: plain values that were saved beside them.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run; one process writes them, all may read.

    Args:
        storage: the run folder.
        keep: checkpoints that stay, the newest ones.
    """

    def __init__(self, storage: Storage, keep: int) -> None:
        self.storage, self.keep = storage.child(FOLDER), keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)  # a checkpoint on its way is worth finishing, whatever ended the body

    def steps(self) -> list[int]:
        """Return the steps of whole checkpoints, ascending."""
        found = (_NAME.fullmatch(info.path.removesuffix(FACTS)) for info in self.storage.list() if info.path.endswith("/" + FACTS))
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], best: int | None = None) -> None:
        """Start to write a checkpoint and return; waits for the one before.

        Args:
            step: steps done.
            tensors: CPU tensors, which must not change any more.
            facts: plain values for JSON.
            best: step of a checkpoint that stays besides.

        Raises:
            StorageError: the checkpoint before could not be written.
        """
        self.wait()
        self._writing = self._pool.submit(self._write, step, dict(tensors), dict(facts), best)

    def wait(self) -> None:
        """Wait until what was saved is written.

        Raises:
            StorageError: it could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load(self, step: int | None = None) -> Saved | None:
        """Return the checkpoint of a step, by default the newest; None where there is none.

        Raises:
            DataError: it is damaged.
            NotFound: there is no checkpoint of that step.
        """
        if step is None:
            steps = self.steps()
            if not steps:
                return None
            step = steps[-1]
        folder = folder_name(step)
        where = f"{self.storage.uri}/{folder}"
        fix = "remove that folder; the run then goes on from the checkpoint before"
        content, data = self.storage.read_bytes(f"{folder}/{FACTS}"), self.storage.read_bytes(f"{folder}/{TENSORS}")
        try:
            facts = json.loads(content)
            if facts["format"] != _FORMAT or facts["sha256"] != _digest(data, facts["facts"]):
                raise ValueError("its hash is another one")
            tensors = safetensors.torch.load(data)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"damaged checkpoint ({error})", where=where, fix=fix) from error
        return Saved(step, tensors, facts["facts"])

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], best: int | None) -> None:
        data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        folder = folder_name(step)
        self.storage.write_bytes(f"{folder}/{TENSORS}", data)
        content = {"format": _FORMAT, "sha256": _digest(data, facts), "facts": facts}
        self.storage.write_bytes(f"{folder}/{FACTS}", json.dumps(content, sort_keys=True).encode())
        self._retire(step, best)

    def _retire(self, newest: int, best: int | None) -> None:
        """Remove what is neither among the newest nor the best, and what a killed writer left half-written."""
        whole = [step for step in self.steps() if step <= newest]
        stay = {*whole[-self.keep :], *([best] if best is not None else [])}
        for info in list(self.storage.list()):
            match = _NAME.match(info.path)
            if match and int(match[1]) not in stay and int(match[1]) < newest:
                # The facts go first where both are there: what is left is then seen as half-written.
                self.storage.delete(f"{match[0]}{FACTS}")
                self.storage.delete(info.path)


def _digest(data: bytes, facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(data + json.dumps(facts, sort_keys=True).encode()).hexdigest()


def folder_name(step: int) -> str:
    """Return the name of a step's checkpoint folder."""
    return f"step-{step:08d}"


def as_fp32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return floating tensors as fp32 copies on the CPU, others as they are."""
    return {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in tensors.items()
    }
