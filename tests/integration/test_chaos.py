"""kill -9 anything, run the same command again, get the same bytes: one of each kind here, many in `make chaos`."""

import random
import time
from pathlib import Path

import pytest

from tests.integration.chaos import KINDS, WORKERS, Evaluation, Outcome, make_data, run_and_kill, run_undisturbed, total_units

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("chaos-data"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Evaluation:
    evaluation = run_undisturbed(tmp_path_factory.mktemp("undisturbed"), data)
    assert evaluation.count_calls() == total_units() == len(evaluation.parts())
    return evaluation


def check(outcome: Outcome, undisturbed: Evaluation) -> None:
    for kill in outcome.kills:
        during = " while one was being written" if kill.in_commit else ""
        when = f"{time.strftime('%H:%M:%S')} killed {kill.kind} after {kill.after:.2f} s"
        print(f"{when} with {kill.committed} of {total_units()} units committed{during}")
    print(f"{outcome.runs} run(s), {outcome.calls} units computed")
    assert outcome.metrics == (undisturbed.output / "metrics.json").read_bytes()
    assert outcome.samples == (undisturbed.output / "samples.parquet").read_bytes()
    assert outcome.touched == []
    # At most the units in flight are computed again.
    assert total_units() <= outcome.calls <= total_units() + WORKERS * len(outcome.kills)


def test_a_worker_in_a_commit_then_a_node_then_the_driver(tmp_path: Path, data: Path, undisturbed: Evaluation) -> None:
    outcome = run_and_kill(tmp_path, data, [("commit", 5), ("raylet", 11), ("driver", 17)])
    check(outcome, undisturbed)
    assert outcome.kills[0].in_commit and outcome.runs == 3
    assert [kill.committed < total_units() for kill in outcome.kills] == [True, True, True], "the run was over before the kill"


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_one_kill_of_each_kind(kind: str, tmp_path: Path, data: Path, undisturbed: Evaluation) -> None:
    outcome = run_and_kill(tmp_path, data, [(kind, 5)])
    check(outcome, undisturbed)
    (kill,) = outcome.kills
    assert kill.committed < total_units(), "the run was over before the kill"
    assert outcome.runs == (2 if kind in ("raylet", "driver") else 1)
    assert kill.in_commit or kind != "commit"


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(24))
def test_kills_at_random_moments(seed: int, tmp_path: Path, data: Path, undisturbed: Evaluation) -> None:
    kills = [(KINDS[seed % len(KINDS)], random.Random(seed).randrange(1, total_units() - 4))]
    check(run_and_kill(tmp_path, data, kills), undisturbed)
