"""What is wrong with a loop is found before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fgray.benchmarks.base import open_benchmark
from fgray.config.loop import LoopJob
from fgray.config.schema import BenchmarkConfig
from fgray.errors import DataError, FgrayError
from fgray.evaluation.plan import data_fingerprint
from fgray.loop.checks import check
from fgray.loop.run import run_loop
from tests.loop.test_run import HOW, TRAIN, content
from tests.small_data import write_spec
from tests.training.small_sources import write_pairs

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


@pytest.mark.parametrize("part", ["base", "mine"])
def test_pictures_of_its_own_benchmarks_are_neither_trained_on_nor_mined(tmp_path: Path, part: str) -> None:
    section = {**content(tmp_path)["mine"], "pairs": TEST} if part == "mine" else {"sources": [{"pairs": TEST}], **HOW}
    with pytest.raises(DataError, match="24 of its 24 pictures are in the evaluation set 'drawn' .pairs of drawn"):
        run_loop(job(tmp_path, **{"base": None, part: section}))
    assert not list((tmp_path / "run").glob("seed-*"))


@pytest.mark.parametrize("part", ["base", "mine"])
def test_copies_of_other_bytes_are_found_by_the_part(tmp_path: Path, part: str) -> None:
    spec = write_spec(tmp_path / "spec", cases=2, subsets=("existence",), seed=5)
    pairs = write_pairs(tmp_path, {f"k{i}": [f"text {i}"] for i in range(4)})
    for number, path in enumerate(sorted((spec / "existence" / "images").iterdir())):
        Image.open(path).save(tmp_path / "images" / f"k{number}.png")
    section = {**content(tmp_path)["mine"], "pairs": pairs} if part == "mine" else {"sources": [{"pairs": pairs}], **HOW}
    judging = {"name": "spec", "root": str(spec), "subsets": ["existence"]}
    with pytest.raises(DataError, match="4 of the images are in the evaluation set spec: 'k0' is .*the same picture"):
        run_loop(job(tmp_path, **{"base": None, part: section, "benchmarks": [judging], "gates": []}))
