import json
import multiprocessing
import time
from pathlib import Path

import pytest

from fgray.engine.lease import LOCK, run_lease
from fgray.errors import RunError
from fgray.storage import open_storage


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


@pytest.mark.parametrize(("silent_seconds", "refused"), [(5, True), (3600, False)])
def test_a_holder_on_another_host_is_replaced_only_when_silent(tmp_path: Path, silent_seconds: float, refused: bool) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes(
        LOCK, json.dumps({"id": "x", "host": "elsewhere", "pid": 1, "started": "1", "beat": time.time() - silent_seconds}).encode()
    )
    if refused:
        with pytest.raises(RunError, match="process 1 on elsewhere"), run_lease(storage):
            pass
    else:
        with run_lease(storage):
            pass
