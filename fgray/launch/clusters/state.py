"""Where fgray keeps what it must remember of clusters: folders for their user alone, tokens in files for their user alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fgray.errors import ConfigError
from fgray.launch.clusters.file import ClusterFile


def state_folder(name: str) -> Path:
    """Return the folder of a cluster's token and state.

    Raises:
        ConfigError: the name cannot be a folder's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"'{name}' cannot name a cluster", where="cluster_name", fix="use letters, digits, '.', '_' and '-'")
    return Path.home() / ".fgray" / "clusters" / name


def make_state_folder(name: str) -> Path:
    """Make the folder of a cluster, for its user alone (0700), and return it."""
    folder = state_folder(name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for part in (folder, folder.parent, folder.parent.parent):
        part.chmod(0o700)
    return folder


def token_file(file: ClusterFile) -> Path:
    """Return the file that holds a cluster's token, whether it exists or not; ``RAY_AUTH_TOKEN_PATH`` names it to Ray.

    A file of the user's choice, named by ``RAY_AUTH_TOKEN_PATH``, goes first for clusters that fgray does not start itself: their file
    states an address. The token of any other cluster is fgray's to write.
    """
    chosen = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if chosen and file.options.address:
        return Path(chosen)
    return state_folder(file.name) / "token"


def write_private(path: Path, content: str) -> None:
    """Write a file that only its user can read, whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
        sink.write(content)
    new.replace(path)
