"""Finds and kills the processes of a local cluster by what /proc tells of them: never another cluster's, never by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from fgray.errors import RunError

MARK = "FGRAY_LOCAL_CLUSTER"  # environment variable of everything that a local cluster starts: the folder of its session
_PROC = Path("/proc")
_TITLED = ("ray::", "ray-dashboard-")  # their titles overwrite the environment that /proc shows


def cluster_processes(folder: Path) -> list[int]:
    """Return the ids of all processes of the cluster whose session lies in a folder, but not this one and those above it.

    A process belongs to it by its environment, or, where Ray gave it a title, by the log files that it holds open; so do all
    processes that such a one has started.
    """
    parents = dict(_parents())
    found = {pid for pid in parents if _belongs(pid, folder)}
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    open_ = list(found)
    while open_:
        new = [child for child in children.get(open_.pop(), []) if child not in found]
        found.update(new)
        open_ += new
    mine: int | None = os.getpid()
    while mine:
        found.discard(mine)
        mine = parents.get(mine)
    return sorted(found)


def kill_cluster(folder: Path, patience: float = 10.0) -> int:
    """Kill every process of a cluster and return how many there were; on return none is left.

    Raises:
        RunError: some of them do not die within `patience` seconds.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + patience
    quiet = 0
    while quiet < 2:  # one that has just taken its title may show neither its environment nor a log file yet
        left = cluster_processes(folder)
        quiet = 0 if left else quiet + 1
        if left and time.monotonic() > deadline:
            raise RunError(f"processes {left} do not die", where=str(folder), fix="see what holds them, such as a mount that hangs")
        for pid in left:  # at once and all: what still runs would start others again
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(0.1)
    return len(killed)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield (id, parent's id) of every process that is not a zombie."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state not in "ZX":
                yield int(entry.name), int(parent)


def _belongs(pid: int, folder: Path) -> bool:
    process = _PROC / str(pid)
    try:
        if f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        if not (process / "cmdline").read_bytes().startswith(tuple(title.encode() for title in _TITLED)):
            return False
        return any(_target(link).startswith(f"{folder}/") for link in (process / "fd").iterdir())
    except OSError:  # gone meanwhile, or another user's
        return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
