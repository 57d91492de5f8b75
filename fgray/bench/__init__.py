"""Benchmarks of fgray itself, as jobs: each suite measures ours and theirs in one run and reports ratios."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from fgray.config.schema import BenchJob
from fgray.errors import ConfigError
from fgray.registry import Registry
from fgray.storage import open_storage

Suite = Callable[[Mapping[str, Any], str], Iterator["Row"]]

SUITES: Registry[Suite] = Registry(
    "bench suite",
    {
        "cluster": "fgray.bench.cluster:run",
        "eval": "fgray.bench.eval:run",
        "gpu": "fgray.bench.gpu:run",
        "gpu_mine": "fgray.bench.gpu_mine:run",
        "mine": "fgray.bench.mine:run",
        "regions": "fgray.bench.regions:run",
        "train": "fgray.bench.train:run",
    },
)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what is compared.
        ours, theirs: medians over interleaved repeats.
        unit: of both.
        ratio: how much better ours is: ours/theirs where more is better, theirs/ours where less is.
        goal: the ratio to reach, or None where there is nothing to compare with.
        met: whether it was reached.
        note: how it was measured, in one line.
    """

    name: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    goal: float | None
    met: bool | None
    note: str


def compare_row(name: str, ours: float, theirs: float, unit: str, *, more_is_better: bool, goal: float | None, note: str) -> Row:
    """Return a row with its ratio worked out."""
    ratio = ours / theirs if more_is_better else theirs / ours
    return Row(name, round(ours, 3), round(theirs, 3), unit, round(ratio, 3), goal, None if goal is None else ratio >= goal, note)


@dataclass(frozen=True)
class BenchResult:
    """A finished suite.

    Attributes:
        uri: where ``bench.json`` lies.
        rows: its rows.
    """

    uri: str
    rows: list[Row]

    def table(self) -> Table:
        """Return the rows as a table for the console."""
        table = Table(title=f"written to {self.uri}/bench.json", title_justify="left")
        for column in ("name", "ours", "theirs", "unit", "ratio", "goal", "met", "note"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*("" if value is None else str(value) for value in asdict(row).values()))
        return table


def run_suite(job: BenchJob) -> BenchResult:
    """Run a suite and write ``bench.json``.

    Raises:
        ConfigError: the suite or one of its options is unknown.
        FgrayError: what the measured runs raise.
    """
    suite = SUITES.get(job.suite)
    storage = open_storage(job.output)
    try:
        rows = list(suite(job.options, job.output))
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ConfigError(
            f"the suite '{job.suite}' has no such option ({error})", where="options", fix="see the head of its configuration"
        ) from error
    except ValidationError as error:  # of a section inside the options, such as a model
        first = error.errors()[0]
        where = ".".join(("options", *(str(part) for part in first["loc"])))
        raise ConfigError(first["msg"], where=where, fix="see the head of its configuration") from error
    storage.write_bytes("bench.json", json.dumps([asdict(row) for row in rows], indent=1).encode() + b"\n")
    return BenchResult(storage.uri, rows)
