"""The gpu_mine suite on the CPU at tiny sizes: its arithmetic and its check of the neighbours."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from fgray.bench import BenchJob, gpu_mine, run_suite
from fgray.errors import ConfigError


def job(output: str, **options: object) -> BenchJob:
    return BenchJob(job="bench", name="b", suite="gpu_mine", options=options, output=output)


def test_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    output = str(tmp_path_factory.mktemp("out"))
    (row,) = run_suite(job(output, device="cpu", queries=90, corpus=1500, dim=32, k=5, repeats=1)).rows
    assert (row.name, row.unit, row.goal, row.met) == ("search_vs_ceiling", "TFLOP/s", None, None), "nothing is promised of a CPU"
    assert "90 x 1,500 x 32, k = 5" in row.note and row.note.endswith("64 of 64 sampled queries as in float64")
    seconds = float(re.search(r"([\d.e-]+) s, median", row.note)[1])  # type: ignore[index]
    assert row.ours == pytest.approx(2 * 90 * 1500 * 32 / seconds / 1e12, abs=1e-3)


def test_agreement_sees_one_wrong_neighbour() -> None:
    queries, corpus = gpu_mine._unit_rows(10, 16, 0, "cpu"), gpu_mine._unit_rows(200, 16, 1, "cpu")
    found = gpu_mine.search(queries, corpus, 4)
    assert gpu_mine.agreement(queries, corpus, found, 4) == (10, 10)
    found[3, 1] = found[3, 0]
    assert gpu_mine.agreement(queries, corpus, found, 4) == (9, 10)


def test_vectors_are_of_unit_length_and_on_the_grid() -> None:
    values = gpu_mine._unit_rows(100, 64, 3, "cpu")
    assert values.dtype == torch.bfloat16
    wide = values.double().numpy()
    np.testing.assert_allclose(np.linalg.norm(wide, axis=1), 1, atol=2**-8)
    np.testing.assert_array_equal(wide * 2**26, np.rint(wide * 2**26))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "no device is called 'tpu' [options.device]"),
        ({"device": "cpu", "corpus": 0}, "corpus cannot be '0' [options.corpus]"),
        ({"device": "cpu", "rows": 3}, "the suite 'gpu_mine' has no such option"),
    ],
)
def test_bad_options(tmp_path_factory: pytest.TempPathFactory, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_suite(job(str(tmp_path_factory.mktemp("out")), **options))
    assert message in str(caught.value)
