"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fgray.report import wording
from fgray.report.compare import Compared, lines, names
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


def comparison_table(comparison: Compared) -> Table:
    """Return the differences of two runs as a table; ✱ marks what holds after Holm's correction.

    Args:
        comparison: what `fgray.evaluation.compare.compare_runs` returned.
    """
    content = comparison.to_dict()
    called = names(content["runs"])
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption_justify="left", header_style="bold")
    table.caption = Text(
        f"difference: {called['b']} minus {called['a']}, in points; p: Holm's over the primary metrics, else uncorrected (u)"
    )
    table.add_column("metric", overflow="fold")
    for heading in ("A %", "B %", "difference", "interval", "p", "detectable"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines(content):
        item = line.facts
        style = {"better": "green", "worse": "red", "open": ""}[line.verdict] if item["primary"] else ""
        bounds = f"{wording.points(line.bounds[0])} to {wording.points(line.bounds[1])}" if line.bounds else wording.MISSING
        mark = " ✱" if line.verdict != "open" else "  "
        p_value = wording.p_value(item["p_holm"]) + mark if item["primary"] else wording.p_value(item["p_value"]) + " u"
        detectable = f"±{wording.percent(item['detectable'])}" if item["detectable"] is not None else wording.MISSING
        values = [wording.percent(item["value_a"]), wording.percent(item["value_b"])]
        table.add_row(Text(item["name"]), *values, Text(wording.points(item["difference"]), style=style), bounds, p_value, detectable)
    return table


def _cells(row: Row) -> list[Text]:
    bounds = f"{wording.percent(row.interval[0])}–{wording.percent(row.interval[1])}" if row.interval else wording.MISSING
    right = f"{wording.number(row.correct)} / " if row.correct is not None else ""
    value = Text(wording.percent(row.value), style=f"bold {_STANDING[row.standing]}".strip())
    return [
        Text("  " + row.name.removeprefix(f"{row.benchmark}/")),
        value,
        Text(bounds),
        Text(wording.percent(row.chance)),
        Text(right + wording.number(row.count)),
    ]
