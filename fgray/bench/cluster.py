"""The cluster suite: what the driver costs for 10^8 rows, how a simulated cluster scales, whether Ray behaves as simulated."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from fgray.bench import Row, compare_row
from fgray.bench.simulate import Model, simulate
from fgray.bench.submit import submit
from fgray.errors import ConfigError, RunError, did_you_mean

GIB = 2**30
LIMIT_SECONDS, LIMIT_GIB = 600.0, 4.0  # of the driver, for 10^8 rows


def run(options: Mapping[str, Any], output: str) -> Iterator[Row]:
    """Yield the rows of the suite.

    Args:
        options: `parts`, names of ``PARTS`` (default: all); and per part its own options, see their functions.
        output: where the suite's folder is.

    Raises:
        ConfigError: a part is unknown.
    """
    wanted = dict(options)
    parts = wanted.pop("parts", list(PARTS))
    for name in parts:
        if name not in PARTS:
            raise ConfigError(f"the cluster suite has no part '{name}'", where="options.parts", fix=did_you_mean(name, PARTS))
    for name in wanted:  # those of parts that are left out now may stay
        if name not in PARTS:
            raise ConfigError(f"the cluster suite has no option '{name}'", where="options", fix=did_you_mean(name, ["parts", *PARTS]))
    for name in parts:
        yield from PARTS[name](**wanted.get(name, {}))


def driver(
    rows: Sequence[int] = (10**6, 10**7, 10**8), unit_rows: int = 768, workers: int = 1000, unit_seconds: float = 1.5
) -> Iterator[Row]:
    """Yield what the driver costs: planning, bookkeeping, reducing; each in a process of its own.

    Args:
        rows: sizes, ascending.
        unit_rows: images of a unit; 768 is what a GPU worker gets.
        workers: of the simulated cluster.
        unit_seconds: of a unit on a worker.
    """
    seconds: dict[int, float] = {}
    for count in rows:
        size = f"{count:.0e}".replace("e+0", "e")
        model = asdict(Model(unit_seconds))
        found = {
            task: _fresh({"task": task, "rows": count, "unit_rows": unit_rows, "workers": workers, "model": model})
            for task in ("plan", "reduce")
        }
        plan, reduced = found["plan"], found["reduce"]
        if plan["again_missing"] or reduced["count"] != count:
            raise RunError(f"{plan['again_missing']} of {count} stored rows are planned again, {reduced['count']} were reduced")
        seconds[count] = plan["plan_seconds"] + plan["keep_seconds"] + reduced["reduce_seconds"]
        note = f"{count:,} images in {plan['units']:,.0f} units of {unit_rows}, nothing stored; ids, order, units, items.parquet"
        yield _row(f"plan_seconds_{size}", plan["plan_seconds"], "s", note)
        note = f"receipts of {workers:,} simulated workers in their order, index files written; the parts are empty files"
        yield _row(f"keep_seconds_{size}", plan["keep_seconds"], "s", note)
        yield _row(
            f"resume_seconds_{size}",
            plan["again_seconds"],
            "s",
            "the plan of the same rows when all of them are stored: nothing is missing",
        )
        note = f"{count:,} scored cases of two candidates in two subsets to samples.parquet ({reduced['bytes'] / GIB:.2f} GiB) and metrics"
        yield _row(f"reduce_seconds_{size}", reduced["reduce_seconds"], "s", note)
        peak = max(plan["peak"], reduced["peak"]) / GIB
        note = f"largest resident memory: planning {plan['peak'] / GIB:.2f}, reducing {reduced['peak'] / GIB:.2f}; theirs: the limit"
        yield compare_row(f"driver_gib_{size}", peak, LIMIT_GIB, "GiB", more_is_better=False, goal=1.0, note=note)
        cpu = plan["cpu_seconds"] + reduced["cpu_seconds"]
        note = f"planning + bookkeeping + reducing; theirs: the limit; processor time of all, resume and rows' making included: {cpu:.0f} s"
        yield compare_row(f"driver_seconds_{size}", seconds[count], LIMIT_SECONDS, "s", more_is_better=False, goal=1.0, note=note)
    for small, large in zip(list(rows)[:-1], list(rows)[1:], strict=True):
        growth, factor = seconds[large] / seconds[small], large / small
        note = f"time of {large:,} rows over that of {small:,}; theirs: linear growth"
        yield compare_row(
            f"driver_growth_{large // small}x_{large:.0e}", growth, factor, "times", more_is_better=False, goal=0.8, note=note
        )


def _fresh(task: Mapping[str, Any]) -> dict[str, float]:
    """Run a task of the simulator in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as folder:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps({**task, "folder": folder}))
        done = subprocess.run([sys.executable, "-m", "fgray.bench.simulate", str(file)], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            fix = "free memory or lower options.driver.rows" if done.returncode == -9 else None
            raise RunError(f"the simulated driver ended with status {done.returncode}: {last}", fix=fix)
        answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return answer


def scaling(
    workers: Sequence[int] = (1, 10, 100, 1000), rows: int = 10**8, unit_rows: int = 768, unit_seconds: float = 1.5
) -> Iterator[Row]:
    """Yield how much faster simulated workers are than one, in one go and in waves, and with workers and nodes that die.

    Args:
        workers: numbers of workers.
        rows: images.
        unit_rows: of a unit.
        unit_seconds: of a unit on a worker.
    """
    from fgray.engine.ray_data import wave_size

    units = -(-rows // unit_rows)
    alone = units * unit_seconds
    for count in workers:
        wave = wave_size(count, unit_rows)
        whole, waves = (simulate(units, count, Model(unit_seconds, wave=size)) for size in (0, wave))
        lossy = simulate(units, count, Model(unit_seconds, wave=wave, worker_life=24 * 3600, node_life=6 * 3600))
        note = f"{units:,} units of {unit_seconds} s in waves of {wave:,} on {count:,} workers that start in 20 s for each wave: "
        note += f"{waves.makespan / 60:.1f} min; theirs: the number of workers; without waves {alone / whole.makespan:.0f} times; "
        note += "a node lost every 6 h, a worker every 24 h: "
        note += f"{alone / lossy.makespan:.0f} times, {lossy.lost} attempts lost"
        yield compare_row(
            f"simulated_speedup_{count}", alone / waves.makespan, float(count), "times", more_is_better=True, goal=0.9, note=note
        )


def ray(workers: Sequence[int] = (1, 4, 16), units: int = 6, seconds: float = 1.0) -> Iterator[Row]:
    """Yield how long sleeping workers take on real Ray, beside what the simulator says.

    Args:
        workers: numbers of workers.
        units: of each worker.
        seconds: that a unit sleeps.
    """
    from fgray.bench.stub_workers import run_on_ray, sleeping

    for count in workers:
        times = run_on_ray(units * count, sleeping(seconds, count))
        model = simulate(units * count, count, Model(seconds, start=0.0, jitter=0.0))
        # From the commit of every worker's first unit on, so that the start of the workers is left out on both sides.
        measured, predicted = times.after(count), model.at[-1] - model.at[count - 1]
        note = (
            f"{units * count} units that sleep {seconds} s on {count} workers, from the commit of unit {count} on; theirs: the simulator; "
        )
        note += f"the first commit came after {times.commits[0]:.1f} s"
        yield compare_row(f"ray_vs_simulated_{count}", measured, predicted, "s", more_is_better=False, goal=0.8, note=note)


def engine(units: int = 12, rounds: int = 2_000_000, repeats: int = 3) -> Iterator[Row]:
    """Yield `scaling_1_to_2`: the rate of two workers over that of one, through the engine on Ray, on two cores.

    Args:
        units: of each worker.
        rounds: of PBKDF2 in a unit; two million take about a second.
        repeats: interleaved turns, of which medians are reported.
    """
    from fgray.bench.stub_workers import computing, run_on_ray

    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for count, found in rates.items():
            found.append(run_on_ray(units * count, computing(rounds, count)).rate(count))
    one, two = median(rates[1]), median(rates[2])
    note = f"units/s of 2 workers; theirs: twice those of 1; {units} computing units each through the engine, median of {repeats}, no start"
    yield compare_row("scaling_1_to_2", two, 2 * one, "units/s", more_is_better=True, goal=0.9, note=note)


def _row(name: str, value: float, unit: str, note: str) -> Row:
    return Row(name, round(value, 3), None, unit, None, None, None, note)


PARTS: dict[str, Callable[..., Iterator[Row]]] = {"driver": driver, "scaling": scaling, "ray": ray, "engine": engine, "submit": submit}
"""What the suite measures, by the name of its options."""
