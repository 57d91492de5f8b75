"""Files of the Hugging Face hub: what is cached serves offline; an unreachable hub is said at once, not after minutes of retries."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from fgray.errors import ModelError
from fgray.models.staging import stage, staged_file, staged_folder

_SECONDS = 5.0


def is_reachable(url: str | None = None) -> bool:
    """Return whether a server (default: the hub) accepts connections; True where a proxy decides instead."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    parts = urlsplit(url or constants.ENDPOINT)
    if parts.scheme in getproxies():
        return True
    return _answers(parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))


@cache
def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_SECONDS):
            return True
    except OSError:
        return False


def open_clip_weights(tag: dict[str, Any], what: str) -> str:
    """Return the place of a published open_clip checkpoint, downloading it where it is not cached.

    That is a path on this machine; of a job on a cluster, an address in the run's store.

    Args:
        tag: open_clip's entry for it, with ``hf_hub`` ("owner/repository/file", the file may be empty) or ``url``.
        what: how an error shall call it.

    Raises:
        ModelError: it is neither cached nor reachable.
    """
    if (place := stage()) is not None:
        return staged_file(place, tag.get("hf_hub") or tag.get("url") or what, lambda: Path(_open_clip_weights(tag, what)))
    return _open_clip_weights(tag, what)


def _open_clip_weights(tag: dict[str, Any], what: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    from open_clip.pretrained import download_pretrained

    repository, name = os.path.split(tag.get("hf_hub") or "")
    for file in [name] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]:
        if repository and isinstance(cached := try_to_load_from_cache(repository, file), str):
            return cached
    fix = "connect to the network, or give weights: PATH of a checkpoint and its activation"
    if not is_reachable(None if repository else tag.get("url")):
        raise ModelError(f"{what} is not cached, and the hub is offline from here", where="model.weights", fix=fix)
    try:
        return str(download_pretrained(tag))
    except Exception as error:  # hub, URL and checksum errors share no base class
        raise ModelError(f"{what} cannot be downloaded ({type(error).__name__})", where="model.weights", fix=fix) from error


def snapshot(name: str, where: str = "model.path") -> Path:
    """Return the local folder of a hub repository's configuration, tokenizer and safetensors weights.

    Args:
        name: of the repository.
        where: which field of the configuration an error shall name.

    Raises:
        ModelError: the name is neither cached nor reachable, or the hub has no such repository.
    """
    place = stage()
    return _snapshot(name, where) if place is None else staged_folder(place, name, lambda: _snapshot(name, where))


def _snapshot(name: str, where: str) -> Path:
    from huggingface_hub import snapshot_download

    fix = "give the path of a folder with config.json, or connect to the network and check the name"
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"there is no folder '{name}'", where=where, fix=fix)
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=not is_reachable()))
    except Exception as error:  # hub, network and name errors share no base class
        raise ModelError(f"'{name}' is no folder here, not cached, and not to be had from the hub", where=where, fix=fix) from error
