"""The drive loop on the serial runner: splitting, quarantine, exceptions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.stages import Stage
from fgray.engine.store import ResultStore
from fgray.engine.units import make_units
from tests.engine.toy import number_items, toy_stages


def run(tmp_path: Path, numbers, rows: int = 8, **stage_options) -> tuple[ResultStore, Progress]:
    store = ResultStore(str(tmp_path), "toy")
    stages = toy_stages(**stage_options)
    units = make_units("square", number_items(numbers), rows)
    progress = Progress(len(units), len(numbers), stages)
    with progress:
        run_units(units, stages, store, {}, "serial", progress)
    return store, progress


def read(store: ResultStore, numbers):
    return store.read("square", number_items(numbers)["item_id"].combine_chunks())


def test_every_item_is_computed_and_bad_items_carry_their_reason(tmp_path: Path) -> None:
    store, progress = run(tmp_path, [3, -1, 5])
    results = read(store, [3, -1, 5])
    assert results.values.tolist() == [[9, 9], [0, 0], [25, 25]]
    assert results.errors == [None, "decode: negative", None]
    assert progress.done_items == 3


class Threads:
    def __call__(self, chunk):
        return {"value": np.full((chunk.items.num_rows, 1), torch.get_num_threads(), np.float32)}


def test_a_stage_gets_its_threads_and_the_process_its_own_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    store, stages = ResultStore(str(tmp_path), "toy"), [Stage("count", Threads, threads=before + 1)]
    with Progress(1, 1, stages) as progress:
        run_units(make_units("square", number_items([1]), 1), stages, store, {}, "serial", progress)
    assert read(store, [1]).values.tolist() == [[before + 1]]
    assert torch.get_num_threads() == before


def test_a_unit_that_exhausts_memory_is_split_down_to_its_culprit(tmp_path: Path) -> None:
    store, progress = run(tmp_path, range(8), how="memory", poison=[5])
    results = read(store, range(8))
    assert [error is not None for error in results.errors] == [n == 5 for n in range(8)]
    assert results.errors[5] is not None and "out of memory" in results.errors[5]
    assert results.values[[0, 1, 2, 3, 4, 6, 7], 0].tolist() == [0, 1, 4, 9, 16, 36, 49]
    assert progress.splits == 3  # 8 -> 4 -> 2 -> 1


def test_another_exception_fails_the_run_and_keeps_what_is_committed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bug in the stage"):
        run(tmp_path, range(8), rows=2, how="bug", poison=[5])
    store = ResultStore(str(tmp_path), "toy")
    assert len(store.stored_ids("square")) == 4


def test_the_limiting_stage_is_the_busiest_per_worker(tmp_path: Path) -> None:
    stages = toy_stages(workers=4)
    progress = Progress(1, 1, stages)
    progress.busy = {"widen": 3.0, "square": 8.0, "commit": 1.0}
    assert progress.limiting_stage() == "widen"  # 3/1 against (8 + 1)/4
    progress.busy["square"] = 16.0
    assert progress.limiting_stage() == "square"
