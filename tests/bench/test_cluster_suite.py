"""The simulated cluster obeys what can be worked out by hand, and its driver keeps every row."""

import math
from itertools import islice

import pytest

from fgray.bench import cluster
from fgray.bench.cluster import driver, run, scaling
from fgray.bench.simulate import Model, simulate
from fgray.errors import ConfigError

PLAIN = Model(2.0, start=5.0, dispatch=0.0, jitter=0.0)


@pytest.mark.parametrize(("units", "workers"), [(1, 1), (7, 1), (10, 5), (11, 5), (3, 8)])
def test_without_chance_the_makespan_is_start_and_rounds(units: int, workers: int) -> None:
    found = simulate(units, workers, PLAIN)
    assert found.makespan == pytest.approx(5.0 + 2.0 * math.ceil(units / workers))
    assert sorted(found.order) == list(range(units)) and found.at == sorted(found.at) and found.lost == 0


def test_a_driver_that_hands_out_slowly_is_the_limit() -> None:
    found = simulate(100, 50, Model(2.0, start=0.0, dispatch=0.5, jitter=0.0))
    assert found.makespan == pytest.approx(100 * 0.5 + 2.0)


def test_waves_wait_for_their_last_unit_and_start_anew() -> None:
    found = simulate(20, 4, Model(2.0, start=5.0, dispatch=0.0, jitter=0.0, wave=10))
    assert found.makespan == pytest.approx(2 * (5.0 + 3 * 2.0))


def test_lost_attempts_run_again_and_cost_time() -> None:
    calm = simulate(2000, 16, Model(2.0, start=1.0))
    for model in (Model(2.0, start=1.0, worker_life=60.0), Model(2.0, start=1.0, node_life=100.0, node_workers=4, replace=10.0)):
        found = simulate(2000, 16, model)
        assert sorted(found.order) == list(range(2000))
        assert found.lost > 10 and found.makespan > calm.makespan


def test_chance_is_seeded() -> None:
    model = Model(2.0, worker_life=60.0)
    assert simulate(300, 8, model, seed=1) == simulate(300, 8, model, seed=1) != simulate(300, 8, model, seed=2)


def test_the_driver_keeps_every_row() -> None:
    rows = {row.name: row for row in driver(rows=[3000], unit_rows=2, workers=10)}
    names = {f"{name}_3e3" for name in ("plan_seconds", "keep_seconds", "resume_seconds", "reduce_seconds", "driver_gib", "driver_seconds")}
    assert rows.keys() == names
    assert 0 < rows["driver_gib_3e3"].ours < 2 and rows["plan_seconds_3e3"].note.startswith("3,000 images in 1,500 units")


def test_speedups_are_told() -> None:
    rows = list(scaling(workers=[1, 10], rows=10**6))
    assert [row.theirs for row in rows] == [1, 10]
    assert 0.95 < rows[0].ours < 1.01 and 8 < rows[1].ours < 10.1


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="no part 'drivr'.*did you mean 'driver'"):
        list(run({"parts": ["drivr"]}, "out"))
    with pytest.raises(ConfigError, match="no option 'scalling'"):
        list(run({"parts": [], "scalling": {}}, "out"))
    with pytest.raises(ConfigError, match="no option"):
        list(islice(run({"parts": ["scaling"], "scaling": {"workers": [1], "rows": 1000}, "x": 1}, "out"), 9))
    assert set(cluster.PARTS) == {"driver", "scaling", "ray", "engine", "submit"}
