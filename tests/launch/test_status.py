"""The table of a run folder's progress.json."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from fgray.cli_output import progress
from fgray.engine.live import PROGRESS
from fgray.errors import DataError, NotFound, RunError
from fgray.launch.status import duration, folder_status, follow_folder, table_of

FACTS = {
    "job": "eval",
    "name": "spec",
    "state": "running",
    "started": "2026-03-01T10:00:00+00:00",
    "updated": "2026-03-01T10:02:05+00:00",
    "host": "head",
    "task": "embedding",
    "units": {"done": 3, "total": 12},
    "items": {"done": 1500, "total": 6000, "stored": 200},
    "rate": 12.34,
    "eta_seconds": 365.0,
    "limiting_stage": "decode",
    "errors": 2,
    "splits": 1,
    "nodes": {"10.0.0.1": 2, "10.0.0.2": 1},
}
NOW = 1772359335.0  # ten seconds after `updated`


def text(table: Table) -> str:
    console = Console(width=200, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_running_evaluation() -> None:
    shown = text(table_of(FACTS, "runs/spec", NOW))
    for part in (
        "eval spec in runs/spec",
        "running",
        "1,500 of 6,000 items (25%), 200 were stored already",
        "3 of 12 units (25%)",
        "12.3 items/s, limited by decode",
        "2 items with errors, 1 units split",
        "10.0.0.1 2, 10.0.0.2 1",
        "about 6 min 5 s",
        "last news 10 s ago",
    ):
        assert part in shown


def test_a_training_and_a_loop() -> None:
    facts = {"job": "loop", "name": "l", "state": "running", "part": "arm", "step": 40, "steps": 80, "loss": 0.5, "pairs_per_second": 99.6}
    shown = text(table_of(facts, "runs/l", NOW))
    assert "40 of 80 steps (50%)" in shown and "loss 0.5, 100 pairs/s" in shown and "arm" in shown
    assert "starting workers" in text(table_of({"state": "running", "step": 0, "steps": 80}, "runs/l", NOW))


def test_a_run_without_news_for_a_minute_may_be_dead() -> None:
    assert "no sign of life" not in text(table_of(FACTS, "runs/spec", NOW + 45))
    assert "no sign of life" in text(table_of(FACTS, "runs/spec", NOW + 51))
    assert "no sign of life" not in text(table_of({**FACTS, "state": "finished"}, "runs/spec", NOW + 1e6))


def test_following_ends_with_the_run(tmp_path: Path) -> None:
    states = ["running", "running", "finished"]

    def write() -> None:
        now = datetime.now(UTC).isoformat()
        (tmp_path / PROGRESS).write_text(json.dumps({**FACTS, "updated": now, "state": states.pop(0)}))

    shown: list[Table] = []

    def show(table: Table) -> None:
        shown.append(table)
        if states:
            write()

    write()
    follow_folder(str(tmp_path), show, poll_seconds=0.01)
    assert len(shown) == 3


def test_other_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no run has started here"):
        folder_status(str(tmp_path))
    (tmp_path / PROGRESS).write_text("[1")
    with pytest.raises(DataError, match="not valid JSON"):
        folder_status(str(tmp_path))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.34, "0.3 s"),
        (0.01, "under 0.1 s"),
        (0, "0 s"),
        (42.2, "42 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (7200, "2 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_run_that_gives_no_sign_of_life_is_not_followed_for_ever(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_text(json.dumps(FACTS))
    shown: list[Table] = []
    with pytest.raises(RunError, match="no sign of life for ten minutes"):
        follow_folder(str(tmp_path), shown.append, 0.0)
    assert "no sign of life" in text(shown[0])


def test_brackets_in_names_and_errors_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = FACTS | {"state": "failed", "name": "a[b32]", "error": "3 items failed [/runs/x/q.parquet]: look at it [bold]"}
    (tmp_path / PROGRESS).write_text(json.dumps(facts))
    progress(str(tmp_path), follow=False)
    out = capsys.readouterr().out
    assert "a[b32]" in out and "3 items failed [/runs/x/q.parquet]: look at it [bold]" in out
