"""The run lock: a lease with a heartbeat, so that two runs never write one output and a killed run blocks nobody."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fgray.config.schema import Job
from fgray.engine.live import live_progress
from fgray.errors import FgrayError, NotFound, RunError
from fgray.runs import RunFolder, refuse_other_run
from fgray.storage import Storage

LOCK = "lock.json"
BEAT_SECONDS = 10.0
EXPIRES_SECONDS = 60.0
WATCH_SECONDS = 25.0  # two beats and a slow store: a lock that stays as it is for so long has no living holder

_UNKNOWN = "alive"  # a process whose start the system does not tell; its id may have been given to another

_log = logging.getLogger(__name__)


@contextmanager
def open_run(job: Job) -> Iterator[RunFolder]:
    """Hold a job's output while the body runs it, or finishes a run that was interrupted.

    Raises:
        RunError: another run holds the output, or it holds a run of another configuration.
    """
    folder = RunFolder(job.output)
    refuse_other_run(folder, job)
    with run_lease(folder.storage):
        refuse_other_run(folder, job)  # it may have come and gone since
        with live_progress(folder, job):
            yield folder


@contextmanager
def run_lease(storage: Storage) -> Iterator[None]:
    """Hold the output's lock while the body runs.

    The creation is conditional where the store can (local disks, most S3 stores); elsewhere a second reading after
    the write decides. A holder on this host that no longer lives is replaced at once. Of one elsewhere the clock says
    little: where its last beat seems older than a minute, or in the future, the lock is watched for two beats first.
    A store that fails for a while costs beats, not the run.

    Raises:
        RunError: another run holds the lock.
    """
    me = {"id": uuid.uuid4().hex, "host": _host(), "pid": os.getpid(), "started": _process_start(os.getpid())}
    _acquire(storage, me)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(storage, me, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        _release(storage, me)


def _acquire(storage: Storage, me: dict[str, Any]) -> None:
    if storage.create_bytes(LOCK, _content(me)) and _holder(storage).get("id") == me["id"]:
        return
    holder = _holder(storage)
    if _alive(holder) or (holder and not _is_here(holder) and _beats(storage, holder)):
        where = f"{storage.uri}/{LOCK}"
        fix = f"wait for it, stop it, or choose another output (a dead run's lock expires after {EXPIRES_SECONDS:.0f} s)"
        raise RunError(f"another run writes here: process {holder['pid']} on {str(holder.get('host')).split()[0]}", where=where, fix=fix)
    storage.write_bytes(LOCK, _content(me))
    if _holder(storage).get("id") != me["id"]:
        raise RunError("another run has just taken this output", where=storage.uri, fix="run again when it is done")


def _beat(storage: Storage, me: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        try:
            if _holder(storage).get("id", me["id"]) != me["id"]:
                return  # taken over while this machine slept; results are addressed by content, so both may end
            storage.write_bytes(LOCK, _content(me))
        except FgrayError as error:
            _log.warning("the lock was not renewed, next try in %.0f s: %s", BEAT_SECONDS, error)


def _release(storage: Storage, me: dict[str, Any]) -> None:
    try:
        if _holder(storage).get("id") == me["id"]:
            storage.delete(LOCK)
    except FgrayError as error:  # what the body raised matters more, and the lock expires
        _log.warning("the lock was not removed: %s", error)


def _beats(storage: Storage, holder: dict[str, Any]) -> bool:
    """Watch the lock of a holder elsewhere whose clock tells nothing; return whether it changes."""
    _log.warning("the last run here may be dead; watching its lock for %.0f s [%s/%s]", WATCH_SECONDS, storage.uri, LOCK)
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, WATCH_SECONDS / 5))
        if _holder(storage) != holder:
            return True
    return False


def _content(me: dict[str, Any]) -> bytes:
    return json.dumps({**me, "beat": time.time()}).encode()


def _holder(storage: Storage) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_bytes(LOCK))
    except (NotFound, ValueError):
        return {}
    whole = isinstance(content, dict) and isinstance(content.get("pid"), int) and isinstance(content.get("beat"), int | float)
    return content if whole else {}


def _alive(holder: dict[str, Any]) -> bool:
    """Return whether a holder surely lives: its process is here, or its last beat is recent by this machine's clock."""
    if not holder:
        return False
    if _is_here(holder):
        start = _process_start(holder["pid"])
        if start != holder.get("started"):
            return False
        if start != _UNKNOWN:
            return True
    return bool(0 <= time.time() - holder["beat"] < EXPIRES_SECONDS)


def _is_here(holder: dict[str, Any]) -> bool:
    return bool(holder.get("host") == _host())


def _host() -> str:
    """Name what process ids belong to: containers may share a host's name, and machines may all be called localhost."""
    parts = [socket.gethostname()]
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        parts += [boot, str(Path("/proc/self/ns/pid").readlink())]
    except OSError:
        pass  # not Linux: the name must do
    return " ".join(parts)


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
    return _UNKNOWN
