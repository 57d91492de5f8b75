"""How units are dealt out to executions and pools."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fgray.engine.ray_data import WAVE_ROWS, pool_workers, wave_size, waves
from fgray.engine.stages import Stage
from fgray.engine.units import ID_TYPE, Units, make_units


def units_of(count: int) -> Units:
    ids = pa.array([number.to_bytes(16, "big") for number in range(count)], ID_TYPE)
    return make_units("k", pa.table({"item_id": ids}), 1)


@pytest.mark.parametrize("count", [1, 1999, 2000, 2001, 4001, 9000])
def test_every_unit_is_in_one_wave_and_waves_are_about_as_large(count: int) -> None:
    found = list(waves(units_of(count), 1))
    assert [unit for first, size in found for unit in range(first, first + size)] == list(range(count))
    sizes = [size for _, size in found]
    assert max(sizes) <= 2000 and max(sizes) - min(sizes) <= 1 and len(sizes) == -(-count // 2000)


def test_waves_grow_with_the_workers_up_to_what_the_driver_may_hold() -> None:
    assert wave_size(1, 64) == wave_size(10, 64) == 2000
    assert wave_size(100, 64) == 12_800
    assert wave_size(1000, 768) * 768 <= WAVE_ROWS < (wave_size(1000, 768) + 1) * 768
    assert wave_size(1, 10**9) == 1
    assert list(waves([], 1)) == []


@pytest.mark.parametrize(("decode", "model", "threads", "expected"), [(1, 3, 1, 4), (8, 2, 4, 4), (1, 1, 4, 1), (3, 1, 2, 2)])
def test_a_pool_that_does_all_stages_takes_no_more_cpus_than_they_were_given(decode: int, model: int, threads: int, expected: int) -> None:
    pool = [Stage("decode", dict, workers=decode), Stage("model", dict, workers=model, cpus=threads)]  # type: ignore[arg-type]
    assert pool_workers(pool) == expected
    assert expected * threads <= decode + model * threads
    assert [pool_workers([stage]) for stage in pool] == [decode, model]
