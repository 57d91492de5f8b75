"""progress.json: what it says while a run goes on, when it ends, and that a store's trouble never becomes the run's."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fgray.config.schema import Job
from fgray.engine import live as module
from fgray.engine.lease import open_run
from fgray.engine.live import PROGRESS, live, live_progress
from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.stages import Receipt
from fgray.engine.store import ResultStore
from fgray.engine.units import make_units
from fgray.errors import RunError, StorageError
from fgray.runs import RunFolder
from tests.engine.toy import number_items, toy_stages


def job_of(folder: Path, name: str = "toy") -> Job:
    return Job(job="toy", name=name, output=str(folder))


def read(folder: Path) -> dict:
    return json.loads((folder / PROGRESS).read_text())


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_tells_what_it_did_and_that_it_is_finished(tmp_path: Path) -> None:
    stages, units = toy_stages(), make_units("square", number_items([1, 2, -3]), 2)
    with open_run(job_of(tmp_path)), Progress(len(units), 3, stages, stored=4) as progress:
        run_units(units, stages, ResultStore(str(tmp_path / "store"), "toy"), {}, "serial", progress)
    found = read(tmp_path)
    assert (found["job"], found["name"], found["state"]) == ("toy", "toy", "finished")
    assert found["units"] == {"done": 2, "total": 2}
    assert found["items"] == {"done": 3, "total": 3, "stored": 4}
    assert (found["errors"], found["splits"], found["eta_seconds"]) == (1, 0, 0)
    assert found["started"] <= found["updated"]
    assert live() is None


def test_the_news_come_while_the_body_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.05)
    with live_progress(RunFolder(str(tmp_path)), job_of(tmp_path)) as news:
        wait_for((tmp_path / PROGRESS).exists)
        assert read(tmp_path)["state"] == "running"
        news.update(step=7)
        wait_for(lambda: read(tmp_path).get("step") == 7)
    assert read(tmp_path)["state"] == "finished"


def test_how_a_run_ended(tmp_path: Path) -> None:
    with pytest.raises(RunError), live_progress(RunFolder(str(tmp_path / "a")), job_of(tmp_path)):
        raise RunError("too many items are corrupt", where="here", fix="mend them")
    with pytest.raises(SystemExit), live_progress(RunFolder(str(tmp_path / "b")), job_of(tmp_path)):
        raise SystemExit(143)
    assert read(tmp_path / "a")["state"] == "failed"
    assert "too many items are corrupt" in read(tmp_path / "a")["error"]
    assert read(tmp_path / "b")["state"] == "stopped"


class _Broken(RunFolder):
    def write_json(self, name, content) -> None:
        raise StorageError("the store stays away", where=self.uri)


def test_a_store_that_takes_no_news_costs_one_warning(tmp_path: Path, warned: Callable[[str], list[str]]) -> None:
    heard = warned("fgray.engine.live")
    with live_progress(_Broken(str(tmp_path)), job_of(tmp_path)) as news:
        news.update(step=1)
    (line,) = heard
    assert line.startswith("WARNING") and "the run goes on" in line


def test_a_loop_tells_what_its_part_does(tmp_path: Path) -> None:
    with live_progress(RunFolder(str(tmp_path / "loop")), job_of(tmp_path)):
        with live_progress(RunFolder(str(tmp_path / "arm")), job_of(tmp_path, "arm")) as part:
            part.update(step=3)
        assert live() is not None
    whole = read(tmp_path / "loop")
    assert (whole["name"], whole["part"], whole["step"]) == ("toy", "arm", 3)
    assert "part" not in read(tmp_path / "arm")


def test_what_was_measured_by_kind_and_stage() -> None:
    progress = Progress(3, 6, toy_stages(workers=2))
    with progress:
        progress.committed("a", 4, Receipt(0, 4, 1, {"widen": 1.0, "square": 3.0}))
        progress.committed("b", 2, Receipt(1, 2, 0, {"square": 0.5, "commit": 0.25}, node="one"))
        progress.committed("a", 1, Receipt(2, 1, 0, {"widen": 0.5, "square": 1.0}, node="one", lost=2))
    found = progress.measured()
    assert found["by_kind"] == {"a": {"items": 5, "widen": 1.5, "square": 4.0}, "b": {"items": 2, "square": 0.5, "commit": 0.25}}
    assert found["workers"] == {"widen": 1, "square": 2}
    assert (progress.errors, progress.lost, found["nodes"]) == (1, 2, {"one": 2})
    start, *units = map(json.loads, progress.log)
    assert (start["event"], start["units"], start["items"]) == ("start", 3, 6)
    assert [(row.get("node"), row.get("lost")) for row in units] == [(None, None), ("one", None), ("one", 2)]


def test_the_log_is_there_while_the_body_runs_and_keeps_what_earlier_attempts_wrote(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.05)
    folder = RunFolder(str(tmp_path))
    folder.storage.write_bytes("log.jsonl", b'{"event": "unit", "at": 1.0}\n')

    def logged() -> list[dict]:
        return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    with live_progress(folder, job_of(tmp_path)):
        with Progress(2, 5, toy_stages()) as progress:
            progress.committed("a", 4, Receipt(0, 4, 0, {"square": 3.0}))
            wait_for(lambda: [row["event"] for row in logged()] == ["unit", "start", "unit"])
            progress.committed("a", 1, Receipt(1, 1, 0, {"square": 3.0}))
        assert len(logged()) == 4  # a report that is written now has all of it
        with Progress(1, 7, toy_stages()) as progress:
            progress.split(7, "the model worker died 2 times")
    assert [(row["event"], row.get("items")) for row in logged()[3:]] == [("unit", 1), ("start", 7), ("split", 7)]


def test_a_training_writes_its_log_itself(tmp_path: Path) -> None:
    training = job_of(tmp_path).model_copy(update={"job": "train_clip"})
    with live_progress(RunFolder(str(tmp_path)), training), Progress(1, 4, toy_stages()) as progress:
        progress.committed("a", 4, Receipt(0, 4, 0, {"square": 3.0}))
    assert not (tmp_path / "log.jsonl").exists()
