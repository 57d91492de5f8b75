"""What is wrong with a loop is found before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fgray.benchmarks.base import open_benchmark
from fgray.config.loop import LoopJob
from fgray.config.schema import BenchmarkConfig
from fgray.errors import FgrayError
from fgray.evaluation.plan import data_fingerprint
from fgray.loop.checks import check
from fgray.loop.run import run_loop
from tests.loop.test_run import HOW, TRAIN, content

SELECTION = {"name": "drawn", "split": "selection", "images": 12}
WISE = {"benchmarks": [SELECTION], "target": "drawn/captions/accuracy", "keep": "drawn/naming/accuracy"}
TEST = {"name": "drawn", "split": "test", "images": 24}


def job(tmp_path: Path, **changes: Any) -> LoopJob:
    return LoopJob.model_validate(content(tmp_path / "run", **changes))


def test_the_set_that_picks_a_share_is_named(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    loaded = open_benchmark(BenchmarkConfig.model_validate(SELECTION), None, store)
    assert check(job(tmp_path, wise_ft=WISE), store) == {"drawn": data_fingerprint(loaded)}
    assert check(job(tmp_path), store) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates": [{"metric": "drawn/nameing/*"}]}, "'drawn/nameing/.' names no metric .gates.: did you mean 'drawn/naming/accuracy'"),
        ({"primary": ["drawn/naming/acc"]}, "called 'drawn/naming/acc' .primary.: did you mean 'drawn/naming/accuracy'"),
        ({"wise_ft": {**WISE, "target": "drawn/caption/accuracy"}}, "wise_ft.target.: did you mean 'drawn/captions/accuracy'"),
        ({"wise_ft": {**WISE, "keep": "drawn/name/accuracy"}}, "wise_ft.keep.: did you mean 'drawn/naming/accuracy'"),
        # Other cases, but the same pictures.
        ({"wise_ft": {**WISE, "benchmarks": [{**TEST, "images": 8}]}}, "8 of its 8 pictures are in 'drawn', which judges .wise_ft.benchm"),
        (
            {"base": {"sources": [{"pairs": TRAIN}], **HOW, "selection": {"benchmarks": [TEST], "metric": "m", "every_steps": 1}}},
            "24 of its 24 pictures are in 'drawn', which judges .base.selection",
        ),
    ],
)
def test_nothing_is_trained_before_a_mistake_is_found(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FgrayError, match=message) as caught:
        run_loop(job(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("seed-*"))
