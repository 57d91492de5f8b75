"""The terminal's table and the wording that all reports share."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fgray.report import wording
from fgray.report.console import metrics_table
from fgray.report.views import benchmark_views, verdict
from fgray.runs import RunFolder


def printed(table: object, width: int = 140) -> list[str]:
    sink = io.StringIO()
    Console(file=sink, width=width).print(table)
    return [line.rstrip() for line in sink.getvalue().splitlines() if line.strip()]


def test_metrics_stand_under_their_benchmark(run_folder: RunFolder) -> None:
    metrics, run = run_folder.read_json("metrics.json")["metrics"], run_folder.read_json("run.json")
    lines = printed(metrics_table(metrics, run))
    assert " SPEC-style, not SPEC" in lines
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("   ")}
    assert rows.keys() == {name.removeprefix("spec_style/").removeprefix("retrieval/flickr8k/") for name in metrics}
    assert [line.strip() for line in lines if line.startswith(" ") and not line.startswith("  ")].count("Flickr8k retrieval") == 1
    assert rows["existence/i2t_accuracy"] == ["74.0", "67.6–80.4", "50.0", "133", "/", "180", "–"]
    assert rows["image_retrieval_recall@1"][-1] == "61.1"
    # In the benchmark's own order, not the alphabet's.
    assert list(rows)[3:6] == ["absolute_size/i2t_accuracy", "absolute_size/t2i_accuracy", "absolute_size/accuracy"]
    assert "published" not in " ".join(printed(metrics_table(metrics)))  # without run.json nothing says what is official


@pytest.mark.parametrize(
    ("value", "expected"), [(0.4256, "42.6"), (0.0, "0.0"), (1.0, "100.0"), (0.002, "0.2"), (0.00043, "0.043"), (None, "–")]
)
def test_percent(value: float | None, expected: str) -> None:
    assert wording.percent(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0123, "+1.2"), (-0.0123, "−1.2"), (-0.0001, "0.0"), (None, "–")])
def test_points(value: float | None, expected: str) -> None:
    assert wording.points(value) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("swap_obj", "Swap object"), ("macro", "Macro average"), ("replace_rel", "Replace relation"), ("coco/val", "Coco · val")],
)
def test_words(name: str, expected: str) -> None:
    assert wording.words(name) == expected


def test_numbers_and_scores() -> None:
    assert wording.number(12345) == "12,345" and wording.number(0.5) == "0.5" and wording.number(-0.0) == "0"
    assert (
        wording.score(-0.01234) == "−0.0123"
        and wording.score(2e-6) == "2.0 × 10⁻⁶"
        and wording.score(-3.6e-6) == "−3.6 × 10⁻⁶"
        and wording.score(0.0) == "0.0000"
    )
    assert wording.metric_label("text_retrieval_recall@5") == "Image → text, R@5"
    assert wording.metric_label("accuracy") == "Accuracy"
    assert wording.metric_label("accuracy", ["i2t_accuracy", "t2i_accuracy"]) == "Mean of both"


def test_standing_needs_the_whole_interval() -> None:
    def standing(low: float, high: float) -> str:
        metrics = {"metrics": {"mine/a/accuracy": {"value": 0.5, "count": 9, "ci95": [low, high], "chance": 0.5}}}
        return benchmark_views({}, metrics)[0].rows[0].standing

    assert [standing(0.51, 0.6), standing(0.4, 0.49), standing(0.5, 0.6), standing(0.4, 0.6)] == ["above", "below", "level", "level"]


def test_verdict_counts_single_metrics_only() -> None:
    entry = {"value": 0.6, "count": 9, "ci95": [0.55, 0.65], "chance": 0.5}
    definitions = [
        {"type": "metric", "name": "mine/a/accuracy", "subset": "a", "task": "i2t"},
        {"type": "metric", "name": "mine/b/accuracy", "subset": "b", "task": "i2t"},
        {"type": "metric", "name": "mine/naming/accuracy", "subset": "naming", "task": "i2t"},  # a control: in no mean
        {"type": "macro", "name": "mine/macro/accuracy", "parts": ["mine/a/accuracy", "mine/b/accuracy"]},
    ]
    run = {"benchmarks": {"mine": {"title": "Mine", "metrics": definitions}}}
    entries = {"mine/a/accuracy": entry, "mine/b/accuracy": {**entry, "ci95": [0.4, 0.7]}, "mine/macro/accuracy": {**entry, "value": 0.58}}
    entries["mine/naming/accuracy"] = {**entry, "value": 0.9, "ci95": [0.8, 0.95]}
    told = verdict("m", benchmark_views(run, {"metrics": entries}))
    assert told.startswith("m scores 58.0 % on “Mine” (95 % interval 55.0–65.0, chance 50.0 %); ")
    assert told.endswith("; 1 of 2 single scores lies clearly above chance, farthest in a: accuracy (+10.0 points).")
