"""Reading weights that came from outside: no unpickling of code, no silent resizing, errors that name the tensor."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from fgray.errors import ModelError
from fgray.models.fingerprint import file_sha256
from fgray.models.staging import read_once
from fgray.storage import open_storage

_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (*_PICKLES, ".safetensors")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys under which training scripts keep the weights
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # plain numbers inside OpenAI's archives
_CONVERT = "where you trust who made it, run: fgray convert FILE weights.safetensors --trust"


class BringsCodeError(ModelError):
    """The checkpoint is no plain file of tensors: loading it would run what it brings."""


def checkpoint_sha256(uri: str) -> str:
    """Return the sha256 of a checkpoint's bytes.

    Raises:
        NotFound: there is no such file.
        StorageError: it cannot be read.
    """
    storage, name = _place(uri)
    if storage.is_local and (local := Path(storage.uri) / name).is_file():
        return file_sha256(local)
    return hashlib.sha256(read_once(storage, name)).hexdigest()


def read_state_dict(uri: str) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors of a checkpoint and the sha256 of the bytes that they were read from.

    Args:
        uri: path, file:// or s3:// address of a ``.safetensors``, ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file.

    Raises:
        BringsCodeError: it is a TorchScript archive, or a pickle with foreign globals.
        ModelError: it is damaged, or holds no state dict.
        NotFound: there is no such file.
        StorageError: it cannot be read.
    """
    suffix = PurePosixPath(uri).suffix
    if suffix not in SUFFIXES:
        raise ModelError(f"'{suffix}' is not a checkpoint format", where=uri, fix="use one of " + ", ".join(SUFFIXES))
    storage, name = _place(uri)
    data = read_once(storage, name)
    loaded = _read_safetensors(data, uri) if suffix == ".safetensors" else _read_pickle(data, uri)
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ModelError("the checkpoint holds no state dict", where=uri, fix="save model.state_dict()")
    state = {str(key).removeprefix("module."): value for key, value in loaded.items() if key not in _OPENAI_EXTRAS}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError("the checkpoint holds no state dict", where=uri, fix="save model.state_dict()")
    return state, hashlib.sha256(data).hexdigest()


def fill(model: torch.nn.Module, state: dict[str, torch.Tensor], architecture: str, where: str) -> None:
    """Copy a state dict into a model; every tensor must be there, with its shape, and no other.

    Positional embeddings are not resampled: a checkpoint of another resolution or context length is another model.

    Raises:
        ModelError: naming the first tensor that is missing, misshapen or unexpected, in the model's own order.
    """
    own = model.state_dict()
    fix = f"check that model.arch is what the weights were made for (it is {architecture})"
    for name, tensor in own.items():
        if name not in state:
            raise ModelError(
                f"the checkpoint does not fit {architecture}: tensor '{name}' {list(tensor.shape)} is missing", where=where, fix=fix
            )
        if state[name].shape != tensor.shape:
            shapes = f"is {list(state[name].shape)} in the checkpoint and {list(tensor.shape)} in the model"
            raise ModelError(f"the checkpoint does not fit {architecture}: tensor '{name}' {shapes}", where=where, fix=fix)
    for name, tensor in state.items():
        if name not in own:
            raise ModelError(
                f"the checkpoint does not fit {architecture}: it has tensor '{name}' {list(tensor.shape)} that the model lacks",
                where=where,
                fix=fix,
            )
    model.load_state_dict(state, strict=True)


def _place(uri: str) -> tuple[Any, str]:
    parent, _, name = uri.rpartition("/")
    return open_storage(parent or ("/" if uri.startswith("/") else ".")), name


def _read_safetensors(data: bytes, uri: str) -> dict[str, torch.Tensor]:
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise ModelError(
            f"the file is no readable safetensors file ({error})", where=uri, fix="copy it again and compare its size"
        ) from error


def _read_pickle(data: bytes, uri: str) -> Any:
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                what = "this is a TorchScript archive (as OpenAI publishes its .pt files), which holds code"
                raise BringsCodeError(what, where=uri, fix=_CONVERT)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
        what = f"the pickle wants to run '{names[0]}', which is refused" if names else "the file is no plain pickle of tensors"
        raise BringsCodeError(what, where=uri, fix=_CONVERT) from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = (str(error) or "it ends too early").splitlines()[0]
        what = f"the file is no readable torch checkpoint ({reason})"
        raise ModelError(what, where=uri, fix="copy it again and compare its size") from error
