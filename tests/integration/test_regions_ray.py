"""Regions through Ray's workers: the bytes of a serial run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgray.evaluation import evaluate
from tests.evaluation.test_region_run import job_of
from tests.small_data import write_picture

pytestmark = pytest.mark.slow


def test_samples_are_those_of_a_serial_run(tmp_path: Path) -> None:
    for number in range(4):
        write_picture(tmp_path / "data" / f"p{number}.jpg", number)
    for name, runner in (("serial", {"runner": "serial"}), ("ray", {"runner": "ray", "workers": 1, "decode_workers": 1})):
        evaluate(job_of(tmp_path / "data", tmp_path / name, compute={"batch_size": 4, "unit_rows": 2, **runner}))
    assert (tmp_path / "ray" / "samples.parquet").read_bytes() == (tmp_path / "serial" / "samples.parquet").read_bytes()
