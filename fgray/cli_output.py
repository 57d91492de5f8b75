"""What the commands print, and the small values that they read from their options."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fgray.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from fgray.evaluation.compare import Comparison
    from fgray.launch.clusters.lifecycle import ClusterStatus
    from fgray.launch.remote.jobs import RemoteJob
    from fgray.launch.remote.server import JobState


PROSE = 20  # columns of a console that a sentence needs at least


def result(value: Any) -> None:
    """Print a plan or the result of a job, and where its report is."""
    if not hasattr(value, "table"):
        report(value.uri, value.report)  # an evaluation: its table comes from the run folder
        return
    _print(value.table())
    if hasattr(value, "report"):
        print(f"report: {value.report}")
    if getattr(value, "exit_code", 0):
        raise SystemExit(value.exit_code)  # a verdict that is not "pass"


def report(run: str, page: str) -> None:
    """Print the metrics of a run folder, where its job measures any, and where its page is."""
    from fgray.report.console import metrics_table
    from fgray.runs import RunFolder

    folder = RunFolder(run)
    metrics = folder.read_json(folder.METRICS)
    if isinstance(metrics.get("metrics"), dict):  # of an evaluation; mining counts, and its page shows what
        _print(metrics_table(metrics["metrics"], folder.read_run()))
    print(f"report: {page}")


def comparison(value: Comparison, page: str | None) -> None:
    """Print what two runs differ in."""
    from fgray.report.console import comparison_table

    _print(comparison_table(value))
    if page is not None:
        print(f"page: {page}")


def shard_findings(folder: str, lines: Sequence[str]) -> None:
    """Print what `shards verify` found, and fail when it found something."""
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    if lines:
        raise SystemExit(1)
    print(f"{folder}: every shard and image is as the manifest and the index say")


def scores(rows: Sequence[Any]) -> None:
    """Print texts with cosine and probability, the best first."""
    ranked = sorted(rows, key=lambda row: -row.probability)
    table([{"probability": f"{row.probability:.1%}", "cosine": f"{row.cosine:.4f}", "text": row.text} for row in ranked])


def findings(rows: Sequence[Any]) -> None:
    """Print what `doctor` found."""
    table([row._asdict() for row in rows])


def cluster(status: ClusterStatus) -> bool:
    """Print a cluster's state; return whether it runs."""
    if not status.running:
        print(status.problem)
        return False
    print(f"the cluster '{status.name}' runs at {status.address}")
    table(status.nodes)
    for line in status.demand:
        print(f"asked for, not placed: {line}")
    return True


def job_state(state: JobState) -> str:
    """Return how a job on a cluster does, in a line, and in Ray's words why it never started."""
    reason = f": {state.message.strip().splitlines()[-1]}" if state.status == "FAILED" and state.code is None and state.message else ""
    return f"{state.id} {state.in_words()}{reason}"


def job(job: RemoteJob, follow: bool) -> JobState:
    """Print what a job on a cluster does and, where its run folder can be read from here, how far it is.

    Args:
        job: the job.
        follow: show it anew until it has ended.

    Returns:
        the state that was shown last.
    """
    from rich.console import Group

    from fgray.errors import FgrayError
    from fgray.launch.status import FOLLOW_SECONDS, folder_status

    def shown(state: JobState) -> Group:
        parts: list[Any] = [job_state(state)]
        if folder := state.metadata.get("output"):
            with contextlib.suppress(FgrayError):  # it has not begun, or only the nodes can read it
                parts.append(folder_status(folder))
        return Group(*parts)

    if not follow:
        state = job.state()
        _print(shown(state))
        return state
    with _live() as live:
        for state in job.states(FOLLOW_SECONDS):
            live.update(shown(state))
    return state


def progress(run: str, follow: bool) -> None:
    """Print what the run in a folder does, or show it until it has ended."""
    from fgray.launch.status import folder_status, follow_folder

    if not follow:
        _print(folder_status(run))
        return
    with _live() as live:
        follow_folder(run, live.update)


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str] | None = None) -> None:
    """Print rows under the names of their fields, or of some of them."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False, header_style="bold")
    names = columns or list(rows[0] if rows else ())
    widths = {name: max((len(row[name]) for row in rows), default=0) for name in names}
    tight = sum(widths[name] for name in names[:-1]) + PROSE > _console().width
    for name in names:  # the last one holds prose; the first one is what commands are given, and stays in one piece however narrow it is
        first, last = name == names[0], name == names[-1]
        found.add_column(name, overflow="fold", no_wrap=first or not (last or tight), min_width=widths[name] if first else None)
    for row in rows:
        found.add_row(*(row[name] for name in names))
    _print(found)


def facts(value: Any) -> None:
    """Print a value as JSON."""
    content = value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = dataclasses.asdict(value)
    elif hasattr(value, "_asdict"):
        content = value._asdict()
    print(json.dumps(content, indent=2, ensure_ascii=False))


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
    _console().print(content)


def _live() -> Live:
    from rich.live import Live

    return Live(console=_console(), refresh_per_second=1)


def _console() -> Console:
    from rich.console import Console

    console = Console(markup=False, emoji=False)  # names and messages have brackets of their own
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a file or pipe has no width; names must stay whole for grep
    return console
