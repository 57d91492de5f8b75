"""What the commands print, and the small values that they read from their options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fgray.errors import ConfigError


def result(value: Any) -> None:
    """Print a plan, the result of an evaluation, or the rows of a bench job."""
    if hasattr(value, "report"):
        from fgray.report.console import metrics_table

        _print(metrics_table(value.metrics))
        print(f"report: {value.report}")
    else:
        _print(value.table())


def report(run: str, page: str) -> None:
    """Print the metrics of a run folder and where its page is."""
    from fgray.report.console import metrics_table
    from fgray.runs import RunFolder

    _print(metrics_table(RunFolder(run).read_json(RunFolder.METRICS)["metrics"]))
    print(f"report: {page}")


def comparison(value: Any, page: str | None) -> None:
    """Print what two runs differ in."""
    from fgray.report.console import comparison_table

    _print(comparison_table(value))
    if page is not None:
        print(f"page: {page}")


def scores(rows: Sequence[Any]) -> None:
    """Print texts with cosine and probability, the best first."""
    ranked = sorted(rows, key=lambda row: -row.probability)
    table([{"probability": f"{row.probability:.1%}", "cosine": f"{row.cosine:.4f}", "text": row.text} for row in ranked])


def findings(rows: Sequence[Any]) -> None:
    """Print what `doctor` found."""
    table([row._asdict() for row in rows])


def table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows under the names of their fields."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        found.add_column(name, overflow="fold")
    for row in rows:
        found.add_row(*row.values())
    _print(found)


def facts(value: Any) -> None:
    """Print a value as JSON."""
    content = value.to_dict() if hasattr(value, "to_dict") else value
    print(json.dumps(content, indent=2, ensure_ascii=False, default=str))


def options(assignments: Sequence[str] | None) -> dict[str, Any]:
    """Read ``OPTION=VALUE`` assignments into a mapping."""
    from fgray.config.source import Source, override

    return override(Source({}, "--set"), assignments or ()).values


def model(kind: str, config: str | None) -> Any:
    """Return the model section of a configuration file, or the one that a kind or a YAML mapping stands for.

    Raises:
        ConfigError: it is neither.
    """
    from fgray.config import config_from_text, load_config
    from fgray.config.schema import EvalJob

    if config is not None:
        job = load_config(config).job
        if not isinstance(job, EvalJob):
            raise ConfigError("this job has no model", where=config, fix="name an eval job")
        return job.model
    section = kind if kind.lstrip().startswith("{") else json.dumps({"kind": kind})
    job = config_from_text(f"{{job: eval, name: score, output: unused, benchmarks: [unused], model: {section}}}", "--model").job
    assert isinstance(job, EvalJob)
    return job.model


def _print(content: Any) -> None:
    from rich.console import Console

    Console().print(content)
