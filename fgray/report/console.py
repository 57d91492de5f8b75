"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fgray.report import wording
from fgray.report.views import Row, benchmark_views

_STANDING = {"above": "green", "below": "red", "level": "dim", "unknown": ""}


def metrics_table(metrics: Mapping[str, Mapping[str, Any]], run: Mapping[str, Any] | None = None) -> Table:
    """Return the metrics of a run as a table: value, interval, chance, right of cases, published numbers.

    Args:
        metrics: metric name -> entry, as under "metrics" in metrics.json.
        run: content of run.json; with it the order is the benchmark's and published numbers stand beside official data.
    """
    views = benchmark_views(run or {}, {"metrics": metrics})
    models = list(dict.fromkeys(item["model"] for view in views for item in view.published))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption_justify="left", header_style="bold")
    table.add_column("metric", overflow="fold")
    for heading in ("%", "interval", "chance", "right / cases", *(f"{model} (published)" for model in models)):
        table.add_column(heading, justify="right", no_wrap=heading in ("%", "interval", "chance"))
    for view in views:
        if table.rows:
            table.rows[-1].end_section = True
        table.add_row(Text(view.title, style="bold"))
        for group in view.groups:
            for row in group.rows:
                table.add_row(*_cells(row), *(wording.percent(row.published.get(model)) for model in models))
    return table


def _cells(row: Row) -> list[Text]:
    bounds = f"{wording.percent(row.interval[0])}–{wording.percent(row.interval[1])}" if row.interval else wording.MISSING
    right = f"{wording.number(row.correct)} / " if row.correct is not None else ""
    value = Text(wording.percent(row.value), style=f"bold {_STANDING[row.standing]}".strip())
    return [Text("  " + row.name.partition("/")[2]), value, Text(bounds), Text(wording.percent(row.chance)), Text(right + wording.number(row.count))]
