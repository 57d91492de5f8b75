import contextlib
import json
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fgray.engine import lease
from fgray.engine.lease import LOCK, run_lease
from fgray.errors import RunError, StorageError
from fgray.storage import Storage, open_storage


def test_a_second_run_is_refused_and_the_lock_goes_with_the_first(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with run_lease(storage):
        with pytest.raises(RunError, match="another run writes here: process"), run_lease(storage):
            pass
        assert storage.exists(LOCK)
    assert not storage.exists(LOCK)
    with run_lease(storage):
        pass


def _hold(folder: str, ready) -> None:
    with run_lease(open_storage(folder)):
        ready.set()
        time.sleep(60)


def test_a_killed_holder_on_this_host_is_replaced_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(60)
    storage = open_storage(str(tmp_path))
    with pytest.raises(RunError, match="another run"), run_lease(storage):
        pass
    holder.kill()
    holder.join()
    with run_lease(storage):
        assert json.loads(storage.read_bytes(LOCK))["pid"] != holder.pid


def write_lock(storage: Storage, age: float, **changes) -> None:
    holder = {"id": "x", "host": "elsewhere", "pid": 1, "started": "1", "beat": time.time() - age}
    storage.write_bytes(LOCK, json.dumps({**holder, **changes}).encode())


def test_a_recent_beat_elsewhere_is_refused_at_once(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    write_lock(storage, age=5)
    start = time.monotonic()
    with pytest.raises(RunError, match="process 1 on elsewhere"), run_lease(storage):
        pass
    assert time.monotonic() - start < 5


@contextlib.contextmanager
def beating(storage: Storage, age: float) -> Iterator[None]:
    """Renew a lock as a machine does whose clock is `age` seconds late."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.2):
            write_lock(storage, age)

    write_lock(storage, age)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("age", [7200, -7200])
def test_a_living_holder_with_a_wrong_clock_is_refused(tmp_path: Path, age: float) -> None:
    storage = open_storage(str(tmp_path))
    with beating(storage, age), pytest.raises(RunError, match="process 1 on elsewhere"), run_lease(storage):
        pass


@pytest.mark.parametrize("age", [3600, -7200])
def test_a_silent_holder_elsewhere_is_replaced(tmp_path: Path, age: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.5)
    storage = open_storage(str(tmp_path))
    write_lock(storage, age)
    with run_lease(storage):
        assert json.loads(storage.read_bytes(LOCK))["pid"] == os.getpid()


def test_a_container_that_shares_the_hosts_name_is_elsewhere(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    write_lock(storage, age=5, host=socket.gethostname(), pid=2**22 + 1)  # no such process in this namespace
    with pytest.raises(RunError, match="another run writes here"), run_lease(storage):
        pass


@pytest.mark.parametrize("content", [b"", b"[]", b'{"id": "x"}', b'{"id": "x", "pid": "one", "beat": "now"}'])
def test_a_lock_that_is_no_lock_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with run_lease(open_storage(str(tmp_path))):
        pass


def test_a_store_that_fails_for_a_while_does_not_end_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    storage = open_storage(str(tmp_path))
    with run_lease(storage):
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).mkdir()  # reading and writing it fail now
        time.sleep(0.5)
        (tmp_path / LOCK).rmdir()
        deadline = time.monotonic() + 20
        while not (tmp_path / LOCK).is_file():
            assert time.monotonic() < deadline, "no beat came after the failure"
            time.sleep(0.05)


def test_a_store_that_fails_at_the_end_does_not_hide_the_runs_own_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the run's own"), run_lease(open_storage(str(tmp_path))):
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).mkdir()
        raise StorageError("the run's own")
