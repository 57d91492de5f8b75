"""Runs alone, in a process that is thrown away: unpickles one foreign checkpoint and writes its tensors.

Called as ``python -I convert_worker.py SOURCE DESTINATION WRAPPER…``; it imports nothing of fgray.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import safetensors.torch
import torch


class _Anything:
    """Stands for a class that is not installed here: a training script's options, say. It holds no tensors that matter."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def _ignore(self, *arguments: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = _ignore


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return _Anything


def load(path: str) -> Any:
    """Return what a TorchScript archive or a pickle holds; this runs the code that it brings."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                module: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
                return module.state_dict()
    tolerant = ModuleType("tolerant_pickle")
    vars(tolerant).update(vars(pickle), Unpickler=_Unpickler)
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=tolerant)


def tensors_of(content: Any, wrappers: list[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict, of a module, or of either behind one of the wrapping keys; all else is left behind."""
    for key in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping | torch.nn.Module):
            content = content[key]
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return {}
    # Copies, because safetensors refuses tensors that share memory.
    return {str(name): value.detach().clone().contiguous() for name, value in content.items() if isinstance(value, torch.Tensor)}


if __name__ == "__main__":
    source, destination, *wrapper_keys = sys.argv[1:]
    safetensors.torch.save_file(tensors_of(load(source), wrapper_keys), destination)
