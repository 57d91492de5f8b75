"""Checkpoints: whole or not there, kept as asked, told apart when damaged."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fgray.errors import DataError, StorageError
from fgray.storage import open_storage
from fgray.training.checkpoint import FACTS, TENSORS, Checkpoints, as_fp32

STATE = {"param/a": torch.arange(6, dtype=torch.float32).view(2, 3), "exp_avg/a": torch.full((2, 3), 0.25)}


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_was_saved_is_loaded_and_old_ones_go(tmp_path: Path) -> None:
    with Checkpoints(open_storage(str(tmp_path)), keep=2) as checkpoints:
        assert checkpoints.load() is None
        for step in (10, 20, 30, 40):
            checkpoints.save(step, {name: tensor + step for name, tensor in STATE.items()}, {"epoch": step / 10}, best=10)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 30, 40]
        saved = checkpoints.load()
        assert saved is not None and saved.step == 40 and saved.facts == {"epoch": 4.0}
        assert torch.equal(saved.tensors["param/a"], STATE["param/a"] + 40)
        earlier = checkpoints.load(10)
        assert earlier is not None and torch.equal(earlier.tensors["exp_avg/a"], STATE["exp_avg/a"] + 10)


def test_a_half_written_one_does_not_count_and_goes_with_the_next(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / "step-00000007"
    half.mkdir(parents=True)
    (half / TENSORS).write_bytes(b"half")
    with Checkpoints(open_storage(str(tmp_path)), keep=3) as checkpoints:
        assert checkpoints.steps() == []
        checkpoints.save(9, STATE, {})
    assert written(tmp_path / "checkpoints") == [f"step-00000009/{FACTS}", f"step-00000009/{TENSORS}"]


@pytest.mark.parametrize("name", [TENSORS, FACTS])
def test_a_damaged_one_is_one_line_with_the_remedy(tmp_path: Path, name: str) -> None:
    with Checkpoints(open_storage(str(tmp_path)), keep=3) as checkpoints:
        checkpoints.save(1, STATE, {})
        checkpoints.wait()
        path = tmp_path / "checkpoints" / "step-00000001" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged checkpoint .*step-00000001.*remove that folder"):
            checkpoints.load()


def test_a_write_that_failed_is_told_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    checkpoints = Checkpoints(open_storage(str(tmp_path)), keep=1)
    checkpoints.save(1, STATE, {})
    with pytest.raises(StorageError):
        checkpoints.wait()


KILLED = """
import sys, torch
from fgray.storage import open_storage
from fgray.training.checkpoint import Checkpoints
with Checkpoints(open_storage(sys.argv[1]), keep=2) as checkpoints:
    step = 0
    while True:
        step += 1
        checkpoints.save(step, {"param/a": torch.full((200_000,), float(step))}, {"step": step})
        checkpoints.wait()
        print(step, flush=True)
"""


def test_killed_while_writing_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = 0
    while last < 5:
        last = int(process.stdout.readline())
    time.sleep(0.013)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoints = Checkpoints(open_storage(str(tmp_path)), keep=2)
    saved = checkpoints.load()
    assert saved is not None and saved.step >= last and saved.facts == {"step": saved.step}
    assert torch.equal(saved.tensors["param/a"], torch.full((200_000,), float(saved.step)))


def test_states_are_copied_as_fp32() -> None:
    tensor = torch.ones(3, dtype=torch.bfloat16)
    copied = as_fp32({"a": tensor, "steps": torch.tensor(3)})
    tensor.zero_()
    assert copied["a"].dtype == torch.float32 and copied["a"].sum() == 3 and copied["steps"].dtype == torch.int64
