"""The timeline of a run: attempts one after the other, a lane per node, marks for what went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from fgray.report.planned import basis, planned_and_measured
from fgray.report.timeline import BINS, LANES, Timeline, clock, draw, legend, read_timeline, timeline_of
from fgray.runs import RunFolder


def unit(at: float, items: int = 10, **more) -> dict:
    return {"event": "unit", "kind": "embed_image", "items": items, "errors": 0, "seconds": {}, "at": at, **more}


ROWS = [
    {"event": "start", "units": 5, "items": 70, "stored": 0, "at": 0.0},
    unit(1.0, node="a"),
    unit(3.0, node="b"),
    {"event": "split", "items": 8, "reason": "the model worker died 2 times", "at": 3.5},
    unit(4.0, node="a", lost=1),
    {"event": "start", "units": 2, "items": 40, "stored": 30, "at": 0.0},  # a second attempt, which is slow to begin
    unit(4.5, node="b", items=30),
    unit(6.0, node="b"),
]


def test_attempts_follow_each_other() -> None:
    found = timeline_of(ROWS)
    assert found.seconds == 10.0
    assert found.attempts == [4.0]
    assert found.units == [("a", 1.0, 10), ("b", 3.0, 10), ("a", 4.0, 10), ("b", 8.5, 30), ("b", 10.0, 10)]
    assert found.lost == [("a", 4.0, 1)]
    assert found.splits == [(3.5, "the model worker died 2 times")]
    assert found.sentence() == (
        "5 units with 70 items on 2 nodes in 10 s; 1 attempt died with a worker or node and was done again; 1 unit given up and split."
    )


def test_a_log_of_before_starts_were_told() -> None:
    found = timeline_of([unit(1.0), unit(4.0), unit(0.5), unit(2.0)])
    assert (found.seconds, found.attempts) == (6.0, [4.0])


def test_every_node_has_a_lane_and_every_item_a_bar() -> None:
    soup = BeautifulSoup(draw(timeline_of(ROWS)), "html.parser")
    bars = [rect.title.get_text() for rect in soup.select("rect.kept")]
    assert sorted(bar.split(":")[0] for bar in bars) == ["a", "a", "b", "b", "b"]
    heights = {rect.title.get_text(): float(str(rect["height"])) for rect in soup.select("rect.kept")}
    tall = next(height for said, height in heights.items() if "30 items" in said)
    assert all(height == pytest.approx(tall / 3, abs=0.02) for said, height in heights.items() if "10 items" in said)
    assert len(soup.select("path.lost")) == 1 and len(soup.select("path.split")) == 1 and len(soup.select("line.current")) == 1
    assert "died 2 times" in soup.select("path.split title")[0].get_text()
    assert [sign for sign, _ in legend(timeline_of(ROWS))] == ["×", "▼", "┆"]


def test_the_last_unit_lies_in_the_last_bin_and_on_the_picture() -> None:
    soup = BeautifulSoup(draw(timeline_of([unit(1.0), unit(100.0)])), "html.parser")
    first, last = (float(str(rect["x"])) for rect in soup.select("rect.kept"))
    width = float(str(soup.svg["viewbox"]).split()[2])
    assert last > first + 0.9 * (width - 135) * (BINS - 1) / BINS and last < width


def test_many_nodes_share_a_lane() -> None:
    rows = [unit(float(number), node=f"node-{number}") for number in range(1, 41)]
    soup = BeautifulSoup(draw(timeline_of(rows)), "html.parser")
    lanes = [group.title.get_text() for group in soup.select("g") if group.title]
    assert len(lanes) == LANES and lanes[-1] == "other nodes"
    assert len(soup.select("rect.kept")) == 40


def test_a_hostile_node_name_is_text() -> None:
    soup = BeautifulSoup(draw(timeline_of([unit(1.0, node="<script>x</script>"), unit(2.0)])), "html.parser")
    assert not soup.select("script")


def test_a_log_without_units_has_none(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert read_timeline(folder) is None
    folder.storage.write_bytes(folder.LOG, b'{"step": 1, "loss": 0.5}\n')
    assert read_timeline(folder) is None
    folder.storage.write_bytes(folder.LOG, "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    found = read_timeline(folder)
    assert isinstance(found, Timeline) and found.nodes == ["a", "b"]


@pytest.mark.parametrize(("seconds", "words"), [(6, "6 s"), (119, "119 s"), (180, "3 min"), (9000, "2.5 h")])
def test_running_times(seconds: float, words: str) -> None:
    assert clock(seconds) == words


EVALUATION = {
    "plan": {
        "seconds": 100.0,
        "startup_seconds": 14.0,
        "limiting_stage": "model",
        "calibrated_by_runs": 3,
        "kinds": {"embed_image": {"items": 10, "decode": 0.001, "model": 0.1}},
        "cost": {"total": 1.234, "currency": "USD"},
    },
    "timing": {
        "running_seconds": 150.0,
        "startup_seconds": 20.0,
        "limiting_stage": "decode",
        "by_kind": {"embed_image": {"items": 10, "decode": 0.02, "model": 1.5}, "embed_text": {"items": 4, "decode": 0.01, "model": 0.2}},
    },
}


def test_predicted_and_measured_stand_side_by_side() -> None:
    assert [tuple(row) for row in planned_and_measured(EVALUATION)] == [
        ("Time", "100 s", "2.5 min"),
        ("Until the workers compute", "14 s", "20 s"),
        ("Limiting stage", "model", "decode"),
        ("Decode, one image on one worker", "1 ms", "2 ms"),
        ("Model, one image on one worker", "100 ms", "150 ms"),
        ("Model, one text on one worker", "–", "50 ms"),
        ("Cost", "1.23 USD", "–"),
    ]
    assert basis(EVALUATION) == "calibrated on 3 earlier runs"
    assert basis({}).startswith("by formula")


def test_a_training_and_runs_without_numbers() -> None:
    training = {
        "plan": {"seconds": 10.0, "startup_seconds": 5.0, "pairs_per_second": 50.0, "memory_gib": {"a training worker": 2.0}},
        "timing": {"running_seconds": 12.0, "pairs_per_second": 40.0, "memory_gib": 2.5, "limiting_stage": "compute"},
    }
    assert ("Pairs per second", "50", "40") in planned_and_measured(training)
    assert ("Memory of a worker, at most", "2 GiB", "2.5 GiB") in planned_and_measured(training)
    assert planned_and_measured({**EVALUATION, "timing": {"running_seconds": 0.1, "by_kind": {}}}) == []  # all was stored
    assert planned_and_measured({}) == []
