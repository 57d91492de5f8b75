"""kill -9 anything, run the same command again, get the same bytes: one of each kind here, many in `make chaos`."""

import random
import time
from pathlib import Path

import pytest

from tests.integration.chaos import KINDS, WORKERS, Evaluation, Outcome, make_data, run_and_kill, run_undisturbed, total_units

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("chaos-data"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Evaluation:
    evaluation = run_undisturbed(tmp_path_factory.mktemp("undisturbed"), data)
    assert evaluation.count_calls() == total_units() == len(evaluation.parts())
    return evaluation


def check(outcome: Outcome, undisturbed: Evaluation) -> None:
    during = " while one was being written" if outcome.in_commit else ""
    when = f"{time.strftime('%H:%M:%S')} killed {outcome.kind} after {outcome.killed_after:.2f} s"
    print(
        f"{when} with {outcome.committed} of {total_units()} units committed{during}; {outcome.runs} run(s), {outcome.calls} units computed"
    )
    assert outcome.metrics == (undisturbed.output / "metrics.json").read_bytes()
    assert outcome.samples == (undisturbed.output / "samples.parquet").read_bytes()
    assert outcome.touched == []
    assert total_units() <= outcome.calls <= total_units() + WORKERS  # at most the units in flight are computed again


@pytest.mark.parametrize("kind", KINDS)
def test_one_kill_of_each_kind(kind: str, tmp_path: Path, data: Path, undisturbed: Evaluation) -> None:
    outcome = run_and_kill(tmp_path, data, kind, after_units=5)
    check(outcome, undisturbed)
    assert outcome.committed < total_units(), "the run was over before the kill"
    if kind in ("raylet", "driver"):
        assert outcome.runs == 2
    if kind == "commit":
        assert outcome.in_commit


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(24))
def test_kills_at_random_moments(seed: int, tmp_path: Path, data: Path, undisturbed: Evaluation) -> None:
    check(run_and_kill(tmp_path, data, KINDS[seed % len(KINDS)], random.Random(seed).randrange(1, total_units() - 4)), undisturbed)
