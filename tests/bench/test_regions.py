"""The regions suite with the tiny model: its rows, and that both sides train the same. Speeds mean nothing here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fgray.bench import Row, regions, run_suite
from fgray.config.schema import BenchJob
from fgray.errors import ConfigError

SIZES = {"model": {"kind": "tiny"}, "cases": 1, "batch": 8, "steps": 2, "threads": 1, "repeats": 1}


@pytest.mark.slow  # two processes start
def test_rows(tmp_path: Path) -> None:
    result = run_suite(BenchJob(job="bench", name="b", suite="regions", options=SIZES, output=str(tmp_path)))
    assert [Row(**row) for row in json.loads((tmp_path / "bench.json").read_text())] == result.rows
    step, saved = result.rows
    assert (step.name, step.unit, step.goal) == ("region_step_vs_loop", "pairs/s", 0.95)
    assert step.theirs is not None and step.ratio == pytest.approx(step.ours / step.theirs, rel=0.01)
    assert float(re.search(r"losses differ by (\S+) at most", step.note)[1]) < 1e-5  # type: ignore[index]
    images, crops = (int(re.search(rf"(\d+) {word}", saved.note)[1]) for word in ("images", "crops"))  # type: ignore[index]
    assert images == 24 and 0 < crops < images * 20
    assert saved.ours == pytest.approx(crops * 3 * 32 * 32 / 2**20, abs=1e-3)
    assert saved.theirs == pytest.approx(images * 20 * 3 * 32 * 32 * 4 / 2**20, abs=1e-3)
    assert saved.ratio == pytest.approx(1 - crops / (images * 20 * 4), abs=1e-3)


def test_boxes_are_as_many_as_coco128_has() -> None:
    assert sum(regions.COCO128.values()) == 128
    assert sum(count * images for count, images in regions.COCO128.items()) / 128 == pytest.approx(6.52, abs=0.01)


@pytest.mark.parametrize(("options", "message"), [({"batch": 0}, "batch cannot be '0'"), ({"steps": "many"}, "steps cannot be 'many'")])
def test_mistakes(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(regions.run(options, str(tmp_path)))
