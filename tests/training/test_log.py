"""The training's log, and the trackers as their own libraries read them: a resumed run continues its curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from fgray.errors import FgrayError
from fgray.runs import RunFolder
from fgray.training.log import TrainingLog, note_start, open_trackers, read_log, read_starts

Name = Literal["tensorboard", "wandb", "mlflow"]


def write(folder: RunFolder, names: Sequence[Name], start: int, losses: Sequence[float]) -> None:
    trackers = open_trackers(names, "small", folder, "0123456789abcdef" * 4, start)
    with TrainingLog(folder, trackers, start) as log:
        for step, loss in enumerate(losses, start=start + 1):
            log.add(step, {"loss": loss, "loss/clip": loss / 2})


def killed_and_resumed(folder: RunFolder, name: Name) -> None:
    """Steps 1 to 4; those after step 2 belong to an attempt that died before its checkpoint."""
    write(folder, [name], 0, [4.0, 3.0, 9.0, 9.5])
    write(folder, [name], 2, [2.0, 1.0, 0.5])


EXPECTED = {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0, 5: 0.5}


def test_rows_of_a_dead_attempt_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert read_log(folder) == []
    write(folder, [], 0, [4.0, 3.0, 9.0, 9.5])
    write(folder, [], 2, [2.0, 1.0, math.inf])
    rows = read_log(folder)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0), (5, None)]  # JSON has no infinity
    assert all("Infinity" not in line and json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())


def test_a_start_says_how_many_steps_it_takes_again(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert read_starts(folder) == []
    note_start(folder, 0, 2, "cpu x")
    write(folder, [], 0, [4.0, 3.0, 9.0, 9.5])
    note_start(folder, 1, 1, "cpu y")
    write(folder, [], 1, [2.0, 1.0, 0.5, 0.4])
    note_start(folder, 5, 2, "cpu x")
    found = [(one["step"], one["lost_steps"], one["workers"], one["device"]) for one in read_starts(folder)]
    assert found == [(0, 0, 2, "cpu x"), (1, 3, 1, "cpu y"), (5, 0, 2, "cpu x")]


@pytest.mark.parametrize("name", ["log.jsonl", "starts.jsonl"])
def test_a_damaged_file_is_one_line_with_the_remedy(tmp_path: Path, name: str) -> None:
    folder = RunFolder(str(tmp_path))
    folder.storage.write_bytes(name, b'{"step": 1, "loss"')
    with pytest.raises(FgrayError, match=rf"a line is not JSON .*{name}\]: remove that file") as caught:
        note_start(folder, 0, 1, "cpu x")
    assert "\n" not in str(caught.value)


def test_rows_reach_the_folder_when_the_body_fails(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), TrainingLog(folder) as log:
        log.add(1, {"loss": 1.0})
        raise KeyboardInterrupt
    assert [row["loss"] for row in read_log(folder)] == [1.0]


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra tracking is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_and_resumed(RunFolder(str(tmp_path)), "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {event.step: event.value for event in events.Scalars("loss")} == EXPECTED
    assert {event.step: event.value for event in events.Scalars("loss/clip")} == {step: loss / 2 for step, loss in EXPECTED.items()}


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    killed_and_resumed(RunFolder(str(tmp_path / "run")), "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("fgray").experiment_id])
    assert run.info.run_name == "small" and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {metric.step: metric.value for metric in sorted(history, key=lambda metric: metric.timestamp)} == EXPECTED


def test_mlflow_has_one_run_per_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    write(RunFolder(str(tmp_path / "first")), ["mlflow"], 0, [4.0, 3.0])
    write(RunFolder(str(tmp_path / "second")), ["mlflow"], 0, [8.0, 7.0])
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("fgray").experiment_id])
    curves = [[metric.value for metric in client.get_metric_history(run.info.run_id, "loss")] for run in runs]
    assert sorted(map(sorted, curves)) == [[3.0, 4.0], [7.0, 8.0]]


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = pytest.importorskip("wandb", reason="extra tracking is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield module
    module.teardown()  # its service is a process


def test_wandb_offline(tmp_path: Path, wandb: Any) -> None:
    write(RunFolder(str(tmp_path / "run")), ["wandb"], 0, [4.0, 3.0])
    wandb.teardown()  # its service writes the file, and has written it when it has ended
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert recorded(file) == {1: 4.0, 2: 3.0}


def test_wandb_has_one_name_per_output(tmp_path: Path, wandb: Any) -> None:
    for output in ("first", "second", "first"):
        write(RunFolder(str(tmp_path / output)), ["wandb"], 0, [4.0])
    wandb.teardown()
    assert len({file.name for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}) == 2


def recorded(file: Path) -> dict[int, float]:
    """Read step and loss from W&B's own file of a run: protobuf records in LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, found, content = file.read_bytes(), 7, {}, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # no header fits into the rest of a block
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        content += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (2, 3):  # the first or a middle part
            continue
        record = Record()
        record.ParseFromString(content)
        content = b""
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found[int(items["_step"])] = items["loss"]
    return found


def test_a_tracker_that_cannot_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(FgrayError, match=r"mlflow cannot be started \(.*nonsense.*\[tracking\]") as caught:
        open_trackers(["mlflow"], "small", RunFolder(str(tmp_path)), "0" * 64, 0)
    assert "\n" not in str(caught.value)


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FgrayError, match=r"wandb is not installed.*pip install 'fgray\[tracking\]'"):
        open_trackers(["wandb"], "small", RunFolder(str(tmp_path)), "0" * 64, 0)


def test_tensorboard_does_not_write_to_s3() -> None:
    pytest.importorskip("tensorboard", reason="extra tracking is not installed")
    with pytest.raises(FgrayError, match="cannot be written to S3"):
        open_trackers(["tensorboard"], "small", RunFolder("s3://bucket/run"), "0" * 64, 0)
