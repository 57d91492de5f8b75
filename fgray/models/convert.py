"""Foreign checkpoints to safetensors: a pickle that brings code is loaded in a process of its own, and only tensors come back."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import safetensors.torch
import torch
from torch import Tensor

from fgray.errors import ConfigError, ModelError
from fgray.models import checkpoints, convert_worker
from fgray.storage import open_storage

_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG")  # the process sees no credentials


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        path: the safetensors file.
        tensors: how many.
        parameters: numbers in all tensors.
        source_sha256: of the file that it was made from; the safetensors file's metadata says it, too.
        trusted: whether code that the file brings was run.
    """

    path: str
    tensors: int
    parameters: int
    source_sha256: str
    trusted: bool


def convert_checkpoint(source: str, destination: str, trust: bool = False) -> Converted:
    """Write the weights of a checkpoint as safetensors, under the names that `read_state_dict` gives them.

    A file of plain tensors is read as it is. One that names other classes or functions, or a TorchScript archive, runs code when it is
    loaded. Where it is trusted, that happens in a process of its own: isolated from the environment and from Python's user settings, in
    a temporary folder, and nothing but tensors is taken over. This is no sandbox: the code has the rights of whoever runs it.

    Args:
        source: path or s3:// address of a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file.
        destination: a new ``.safetensors`` file.
        trust: run the code that the file brings.

    Raises:
        ConfigError: the destination is no new safetensors file, or the file brings code and is not trusted.
        ModelError: it holds no state dict, or cannot be loaded.
    """
    parent, _, name = destination.rpartition("/")
    storage = open_storage(parent or ("/" if destination.startswith("/") else "."))
    if PurePosixPath(name).suffix != ".safetensors":
        raise ConfigError(f"'{name}' is no safetensors file", where=destination, fix="name a file that ends in .safetensors")
    if storage.exists(name):
        raise ConfigError("there is such a file", where=destination, fix="name a new file")
    sha256 = checkpoints.checkpoint_sha256(source)
    brings_code = False
    try:
        state, _ = checkpoints.read_state_dict(source)
    except checkpoints.BringsCodeError as error:
        brings_code = True
        if not trust:
            fix = "add --trust where you trust who made the file: its code then runs, with your rights, in a process of its own"
            raise ConfigError(error.what, where=source, fix=fix) from error
        state = _load_apart(source)
    # Copies, because safetensors refuses tensors that share memory, as EVA-02's rotary tables do.
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    data = safetensors.torch.save(tensors, {"format": "pt", "source_sha256": sha256})
    storage.write_bytes(name, data)
    return Converted(destination, len(state), sum(value.numel() for value in state.values()), sha256, brings_code)


def _load_apart(source: str) -> dict[str, Tensor]:
    parent, _, name = source.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="fgray-convert-") as folder:
        copy, result = Path(folder) / f"source{PurePosixPath(name).suffix}", Path(folder) / "tensors.safetensors"
        copy.write_bytes(open_storage(parent or ("/" if source.startswith("/") else ".")).read_bytes(name))
        environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ} | {"HOME": folder, "TMPDIR": folder}
        command = [sys.executable, "-I", str(convert_worker.__file__), str(copy), str(result), *checkpoints.WRAPPERS]
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.is_file():
            reason = (done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"])[-1][:300]
            raise ModelError(
                f"the checkpoint cannot be loaded ({reason})", where=source, fix="install what its pickle needs, or copy it again"
            )
        try:
            return checkpoints.read_state_dict(str(result))[0]
        except ModelError as error:
            raise ModelError(error.what, where=source, fix=error.fix) from error
