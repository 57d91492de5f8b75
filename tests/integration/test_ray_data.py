"""The engine on a real Ray: a worker that dies costs its unit, an item that kills its workers is found and set aside."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.store import ResultStore
from fgray.engine.units import make_units
from fgray.errors import RunError
from tests.engine.toy import KillingStore, number_items, toy_stages

PROJECT = Path(__file__).resolve().parents[2]


def run(folder: Path, numbers, rows: int, store_class: type[ResultStore] = ResultStore, **stage_options) -> tuple[ResultStore, Progress]:
    store = store_class(str(folder), "toy")
    stages = toy_stages(**stage_options)
    units = make_units("square", number_items(numbers), rows)
    progress = Progress(len(units), len(numbers), stages)
    with progress:
        run_units(units, stages, store, {}, "ray", progress)
    return store, progress


def read(store: ResultStore, numbers):
    return store.read("square", number_items(numbers)["item_id"].combine_chunks())


def test_units_are_computed_once_each(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    store, progress = run(tmp_path / "store", range(-2, 30), 4, calls=calls, workers=2)
    results = read(store, range(-2, 30))
    assert results.values[:, 0].tolist() == [0, 0, *[float(n * n) for n in range(30)]]
    assert [i for i, error in enumerate(results.errors) if error] == [0, 1]
    assert len(list(calls.iterdir())) == 32
    assert progress.done_units == 8


def test_an_item_that_kills_its_workers_is_set_aside_alone(tmp_path: Path) -> None:
    store, progress = run(tmp_path / "store", range(8), 4, how="kill", poison=[5])
    results = read(store, range(8))
    assert [error is not None for error in results.errors] == [n == 5 for n in range(8)]
    assert results.errors[5] == "worker: the square worker died 2 times"
    assert progress.splits == 2


def test_a_stages_own_exception_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the square stage failed with ValueError: a bug in the stage"):
        run(tmp_path / "store", range(8), 4, how="bug", poison=[5])


def test_a_worker_that_dies_whenever_it_starts_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the square worker died 3 times while it started"):
        run(tmp_path / "store", range(8), 4, how="stillborn", workers=2)


def test_no_port_is_open_to_other_machines(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from tests.integration.processes import addresses; from tests.integration.test_ray_data import run\n"
        "run(Path(sys.argv[1]), range(8), 4)\n"
        "print(*addresses(os.getpid()), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["127.0.0.1"]  # Ray's servers do listen, so none at all would be a test that looks at nothing


def test_a_killed_worker_costs_only_its_unit(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    killed: list[int] = []

    def kill_one() -> None:
        while not list(calls.iterdir()):
            time.sleep(0.02)
        pid = int(next(calls.iterdir()).name.split("-")[1])  # its process is one of our own actors
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    store, _ = run(tmp_path / "store", range(200), 4, calls=calls, workers=1)
    killer.join()
    assert killed
    assert read(store, range(200)).values[:, 0].tolist() == [float(n * n) for n in range(200)]
    # In flight at the kill: the unit being computed (another may wait in the actor's queue, not yet begun).
    assert 200 <= len(list(calls.iterdir())) <= 204


def test_a_part_whose_worker_died_right_after_the_commit_is_not_written_again(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    store, progress = run(tmp_path / "store", range(-1, 11), 3, store_class=KillingStore, calls=calls)
    results = read(store, range(-1, 11))
    assert results.values[:, 0].tolist() == [0, *[float(n * n) for n in range(11)]]
    assert [i for i, error in enumerate(results.errors) if error] == [0]
    assert len(list(calls.iterdir())) == 12  # nothing was computed twice
    assert (progress.done_units, progress.splits) == (4, 0)
