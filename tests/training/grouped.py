"""Runs a function in every process of a gloo group, without Ray."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_group(function: Callable[..., Any], world: int, folder: Path, *arguments: Any) -> list[Any]:
    """Return what `function(*arguments)`, a module's own, returns in each of `world` processes of one group."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_process, (world, str(folder), function, arguments), nprocs=world)  # type: ignore[no-untyped-call]
    return [pickle.loads((folder / f"result-{rank}").read_bytes()) for rank in range(world)]


def _process(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world), rank=rank, world_size=world)
    result = function(*arguments)
    (Path(folder) / f"result-{rank}").write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
