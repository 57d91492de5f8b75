"""The run lock: a lease with a heartbeat, so that two runs never write one output and a killed run blocks nobody."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fgray.errors import NotFound, RunError
from fgray.storage import Storage

LOCK = "lock.json"
BEAT_SECONDS = 10.0
EXPIRES_SECONDS = 60.0


@contextmanager
def run_lease(storage: Storage) -> Iterator[None]:
    """Hold the output's lock while the body runs.

    The creation is conditional where the store can (local disks, most S3 stores); elsewhere a second reading after
    the write decides. A holder on this host that no longer lives is replaced at once, a silent one elsewhere after
    a minute.

    Raises:
        RunError: another run holds the lock.
    """
    me = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "started": _process_start(os.getpid())}
    _acquire(storage, me)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(storage, me, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _holder(storage).get("id") == me["id"]:
            storage.delete(LOCK)


def _acquire(storage: Storage, me: dict[str, Any]) -> None:
    if storage.create_bytes(LOCK, _content(me)) and _holder(storage).get("id") == me["id"]:
        return
    holder = _holder(storage)
    if _alive(holder):
        where = f"{storage.uri}/{LOCK}"
        fix = f"wait for it, stop it, or choose another output (a dead run's lock expires after {EXPIRES_SECONDS:.0f} s)"
        raise RunError(f"another run writes here: process {holder.get('pid')} on {holder.get('host')}", where=where, fix=fix)
    storage.write_bytes(LOCK, _content(me))
    if _holder(storage).get("id") != me["id"]:
        raise RunError("another run has just taken this output", where=storage.uri, fix="run again when it is done")


def _beat(storage: Storage, me: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        storage.write_bytes(LOCK, _content(me))


def _content(me: dict[str, Any]) -> bytes:
    return json.dumps({**me, "beat": time.time()}).encode()


def _holder(storage: Storage) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_bytes(LOCK))
    except (NotFound, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _alive(holder: dict[str, Any]) -> bool:
    if not holder:
        return False
    if holder.get("host") == socket.gethostname() and _process_start(int(holder.get("pid", 0))) != holder.get("started"):
        return False
    return time.time() - float(holder.get("beat", 0)) < EXPIRES_SECONDS


def _process_start(pid: int) -> str | None:
    """Return a process's start time in clock ticks (its id alone may have been given to another), None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return _signal_zero(pid)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _signal_zero(pid: int) -> str | None:
    """Where there is no /proc (macOS): whether the process exists at all."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
