"""The train suite with the tiny model: its rows, and that all sides train the same. Speeds mean nothing here."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from fgray import cli
from fgray.bench import Row, run_suite, train
from fgray.config.schema import BenchJob

PROJECT = Path(__file__).resolve().parents[2]
SIZES = {"model": {"kind": "tiny"}, "cases": 1, "batch": 8, "steps": 2, "threads": 1, "repeats": 1}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    output = tmp_path_factory.mktemp("out")
    result = run_suite(BenchJob(job="bench", name="b", suite="train", options=SIZES, output=str(output)))
    assert [Row(**row) for row in json.loads((output / "bench.json").read_text())] == result.rows
    return {row.name: row for row in result.rows}


@pytest.mark.slow  # three processes start
class TestRows:
    def test_names_units_goals(self, rows: dict[str, Row]) -> None:
        assert {name: (row.unit, row.goal) for name, row in rows.items()} == {
            "train_vs_open_clip": ("pairs/s", 1.0),
            "train_vs_loop": ("pairs/s", 0.95),
            "data_wait_share": ("of the time", 0.02),
        }

    def test_numbers_follow_from_each_other(self, rows: dict[str, Row]) -> None:
        share = rows.pop("data_wait_share")
        assert 0 <= share.ours <= 1 and share.met is (share.ours <= 0.02) and share.theirs is share.ratio is None
        for row in rows.values():
            assert row.ours > 0 and row.theirs is not None and row.ratio == pytest.approx(row.ours / row.theirs, rel=0.01)
            assert row.met is (row.ratio >= row.goal)
        rows["data_wait_share"] = share

    @pytest.mark.parametrize("name", ["train_vs_open_clip", "train_vs_loop"])
    def test_all_sides_take_the_same_steps(self, rows: dict[str, Row], name: str) -> None:
        """The losses of every step, after updates of the weights, too, are those of the other side's own code."""
        assert float(re.search(r"losses differ by (\S+) at most", rows[name].note)[1]) < 1e-5  # type: ignore[index]


def test_rows_counted_by_hand() -> None:
    """Two turns of an epoch of three steps and two steps after it; the other sides take a step and two timed ones."""
    ours = [
        {"seconds": [9.0, 2.0, 2.0, 1.0, 1.0], "waited": [9.0, 0.1, 0.1, 0.5, 0.5], "losses": [3.0, 2.0, 1.0, 1.0, 1.0]},
        {"seconds": [9.0, 4.0, 4.0, 2.0, 2.0], "waited": [9.0, 0.1, 0.1, 0.5, 0.5], "losses": [3.0, 2.0, 1.0, 1.0, 1.0]},
    ]
    theirs = [{"seconds": [8.0, 2.0, 2.0], "losses": [3.0, 2.0, 1.0]}, {"seconds": [8.0, 4.0, 4.0], "losses": [3.0, 2.0, 1.25]}]
    peer, loop, wait = train._rows({"ours": ours, "bare": theirs, "open_clip": theirs}, 12, 3, "m of 2 turns of 2 steps")
    assert (peer.name, loop.name) == ("train_vs_open_clip", "train_vs_loop")
    for row in (peer, loop):
        assert (row.ours, row.theirs) == (9.0, 4.5)  # medians of 12 and 6, of 6 and 3 pairs a second
        assert row.ratio == 2.0 and row.met
        assert "in which it made 4.5 pairs/s" in row.note and "differ by 2.0e-01 at most" in row.note
    assert (wait.ours, wait.met) == (0.0375, False)  # median of 0.2 / 4 and 0.2 / 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps cannot be '0' [options.steps]: give a whole number from 1 on"),
        ({"batch": 16}, "30 pairs make fewer than two batches of 16 [options]: raise cases or lower batch"),
        ({"precision": "fp16"}, "precision cannot be 'fp16' [options.precision]: choose fp32 or bf16"),
        ({"model": {"kind": "lite0-minilm"}}, "a model of kind 'lite0-minilm' cannot be trained [model.kind]: take an open_clip model"),
        ({"models": {}}, "the suite 'train' has no such option"),
    ],
)
def test_bad_options_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    assert message in refusal(monkeypatch, capsys, tmp_path, {**SIZES, **changes})


def test_missing_peer_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(train, "PEER", "open_clip_train_that_nobody_has")
    message = refusal(monkeypatch, capsys, tmp_path, SIZES)
    assert "the other side needs open_clip_train_that_nobody_has [suite]: pip install 'open_clip_torch>=3.3'" in message


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: Path, options: dict[str, object]) -> str:
    """Submit the shipped configuration with other options, and return the single line that refuses them."""
    job = ["fgray", "submit", str(PROJECT / "configs/bench/train.yaml"), "--output", str(output), "--set"]
    monkeypatch.setattr(sys, "argv", [*job, f"options={json.dumps(options)}"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert not (output / "bench.json").exists()
    return err
