"""The loop's report: every number of the verdict stands where a reader looks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from fgray.report.loop import ordered, write_loop_report
from fgray.runs import RunFolder

SUBSETS = ("absolute_size", "count", "macro")
NAMES = [f"spec_style/drawn_test/{subset}/{metric}" for subset in SUBSETS for metric in ("accuracy", "i2t_accuracy", "t2i_accuracy")]
NAMES += ["spec_style/drawn_test/naming/accuracy", "drawn/naming/accuracy"]
PRIMARY = {"spec_style/drawn_test/macro/i2t_accuracy", "spec_style/drawn_test/macro/t2i_accuracy", "drawn/naming/accuracy"}


def row(name: str, delta: float) -> dict[str, Any]:
    adjusted = 0.03 if name in PRIMARY else None
    return {
        "before": 0.25,
        "after": 0.25 + delta,
        "delta": delta,
        "ci95": [delta - 0.04, delta + 0.05],
        "p": 0.01,
        "p_adjusted": adjusted,
        "primary": name in PRIMARY,
        "clusters": 90,
    }


def gate(outcome: str, needed: int | None) -> dict[str, Any]:
    return {
        "metric": "drawn/naming/accuracy",
        "margin": 0.05,
        "outcome": outcome,
        "delta": -0.02,
        "low": -0.06,
        "high": 0.01,
        "clusters": 90,
        "needed": needed,
    }


def write(folder: Path, seeds: int = 1, spread: bool = True, steps: int = 9) -> BeautifulSoup:
    arms = {
        arm: {"overall": "pass", "metrics": {n: row(n, delta) for n in NAMES}, "gates": []}
        for arm, delta in (("hard", 0.3), ("plain", 0.1))
    }
    arms["hard"]["gates"], arms["plain"]["gates"] = [gate("inconclusive", 512)], [gate("pass", None)]
    one = {"arms": arms, "against": {"plain": {n: row(n, 0.2) for n in NAMES}}, "chance": dict.fromkeys(NAMES, 0.125)}
    one["steps"] = {"hard": 9, "plain": steps}
    changes = {"deltas": [0.1, 0.3], "mean": 0.2, "ci": [0.07, 0.33], "p": 0.021}
    if not spread:
        changes = {"deltas": [0.2, 0.2], "mean": 0.2, "ci": None, "p": None}
    across = {arm: dict.fromkeys(NAMES, changes) for arm in arms} if seeds > 1 else None
    verdict = {"subject": "hard", "overall": "inconclusive", "seeds": {str(i): one for i in range(seeds)}, "across_seeds": across}
    verdict["across_seeds_against"] = across and {"plain": across["plain"]}
    folder.mkdir()
    (folder / "verdict.json").write_text(json.dumps(verdict))
    (folder / "run.json").write_text(json.dumps({"name": "<small>", "config": {"job": "loop"}, "created_by": "fgray", "model": {}}))
    return BeautifulSoup(Path(write_loop_report(RunFolder(str(folder)))).read_text(), "html.parser")


def texts(table: Any) -> list[list[str]]:
    return [[" ".join(cell.get_text(" ").split()) for cell in line.find_all(["th", "td"])] for line in table.find_all("tr")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    return write(tmp_path_factory.mktemp("loop") / "run")


def test_subsets_and_controls_of_base_and_arms(page: BeautifulSoup) -> None:
    naming, subsets, gates, *_ = (texts(table) for table in page.select("#seed-0 table"))
    assert naming[0] == subsets[0] == ["Accuracy, %", "Chance", "Base", "plain", "hard (subject)"]
    hard, plain = "55.0 +30.0 ★ +26.0 to +35.0, p 0.030", "35.0 +10.0 ★ +6.0 to +15.0, p 0.030"
    assert naming[1] == ["Naming primary", "12.5", "25.0", plain, hard]
    labels = [line[0] for line in subsets[1:]]
    expected = [
        "Absolute size",
        "Count",
        "Macro average",
        "Macro average, image → text primary",
        "Macro average, text → image primary",
        "Naming",
    ]
    assert labels == expected
    assert subsets[1][3:] == ["35.0 +10.0 +6.0 to +15.0, p 0.010", "55.0 +30.0 +26.0 to +35.0, p 0.010"]  # not corrected: no star
    assert gates[1] == ["drawn/naming/accuracy", "hard (subject)", "inconclusive", "−2.0", "−6.0 to +1.0", "−5.0", "90", "512"]
    assert gates[2][1:3] + gates[2][-1:] == ["plain", "pass", "–"]


def test_the_subject_against_its_controls_and_both_directions(page: BeautifulSoup) -> None:
    against = texts(page.select("#seed-0 table")[3])
    assert against[0] == ["Difference, points", "against plain", "p"]
    assert against[1] == ["Naming primary", "+20.0 ★ +16.0 to +25.0", "0.030"]
    directions = texts(page.select("#seed-0 details table")[0])
    assert [line[0] for line in directions[1:]] == [
        f"{subset}, {way}" for subset in ("Absolute size", "Count") for way in ("image → text", "text → image")
    ]
    assert "<small>" in page.select_one(".eyebrow").get_text() and page.select("#method") == []


def test_several_seeds_speak_first(tmp_path: Path) -> None:
    page = write(tmp_path / "run", seeds=2)
    naming = texts(page.select("#method table")[0])
    assert naming == [["Change, points", "plain", "hard (subject)"], ["Naming", *["+20.0 +7.0 to +33.0, p 0.021"] * 2]]
    against = texts(page.select("#method table")[2])
    assert against == [["Difference, points", "against plain"], ["Naming", "+20.0 +7.0 to +33.0, p 0.021"]]
    assert len(page.select("section[id^=seed-]")) == 2


def test_seeds_that_agree_have_a_dash(tmp_path: Path) -> None:
    naming = texts(write(tmp_path / "run", seeds=2, spread=False).select("#method table")[0])
    assert naming[1] == ["Naming", "+20.0 –", "+20.0 –"]


@pytest.mark.parametrize(("steps", "times"), [(9, 3), (8, 0)])
def test_steps_are_called_equal_where_they_are(tmp_path: Path, steps: int, times: int) -> None:
    text = write(tmp_path / "run", seeds=2, steps=steps).get_text()
    assert text.lower().count("after equally many steps") == times


def test_metrics_stand_by_benchmark_and_their_mean_last() -> None:
    names = ["s/b/acc", "s/naming/acc", "r/flickr/recall@1", "s/macro/acc", "s/a/acc"]
    assert ordered(dict.fromkeys(reversed(names))) == ["r/flickr/recall@1", "s/a/acc", "s/b/acc", "s/macro/acc", "s/naming/acc"]
