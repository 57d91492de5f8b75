"""What progress.json of a run folder says, as a table that may be shown again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from fgray.engine.live import PROGRESS
from fgray.errors import DataError, NotFound, RunError
from fgray.storage import open_storage

FOLLOW_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
SILENT_SECONDS = 60.0  # without news of a run that says it runs; it writes every ten


def folder_status(uri: str) -> Table:
    """Return the state of the run in a folder.

    Raises:
        NotFound: no run has ever started there.
        DataError: the file is damaged.
    """
    return table_of(read_progress(uri), uri)


def follow_folder(uri: str, show: Callable[[Table], None], poll_seconds: float = FOLLOW_SECONDS) -> None:
    """Show the state of a run until it has ended.

    Raises:
        RunError: it says that it runs, and has given no sign of life for ten minutes.
        FgrayError: see `folder_status`.
    """
    while True:
        facts = read_progress(uri)
        show(table_of(facts, uri))
        if facts.get("state") != "running":
            return
        updated = _epoch(facts.get("updated"))
        if updated is not None and time.time() - updated > PATIENCE_SECONDS:
            raise RunError("the run has given no sign of life for ten minutes", where=uri, fix="the same command again goes on with it")
        time.sleep(poll_seconds)


def read_progress(uri: str) -> dict[str, Any]:
    """Return the content of a run's progress.json.

    Raises:
        NotFound: no run has ever started there.
        DataError: the file is damaged.
    """
    storage = open_storage(uri)
    try:
        content = json.loads(storage.read_bytes(PROGRESS))
    except NotFound as error:
        raise NotFound("no run has started here", where=storage.uri, fix="name a run folder (the job's output)") from error
    except ValueError as error:
        raise DataError("not valid JSON", where=f"{storage.uri}/{PROGRESS}", fix="the run writes it anew while it runs") from error
    if not isinstance(content, dict):
        raise DataError("not a JSON object", where=f"{storage.uri}/{PROGRESS}", fix="the run writes it anew while it runs")
    return content


def table_of(facts: Mapping[str, Any], uri: str, now: float | None = None) -> Table:
    """Return a run's facts as a table.

    Args:
        facts: content of progress.json.
        uri: of the folder, for the title.
        now: seconds since the epoch; default: the clock.
    """
    now = time.time() if now is None else now
    table = Table(title=f"{facts.get('job', 'run')} {facts.get('name', '')} in {uri}", title_justify="left", show_header=False)
    table.add_row("state", _state(facts, now))
    if (part := facts.get("part")) is not None:
        table.add_row("part", str(part))
    if "steps" in facts:
        table.add_row("training", _share(facts.get("step", 0), facts["steps"], "steps"))
        table.add_row("now", _training(facts))
    elif "units" in facts:
        units, items = facts["units"], facts["items"]
        stored = f", {items['stored']:,} were stored already" if items.get("stored") else ""
        table.add_row(str(facts.get("task", "work")), f"{_share(items['done'], items['total'], 'items')}{stored}")
        table.add_row("units", _share(units["done"], units["total"], "units"))
        table.add_row("speed", f"{facts.get('rate', 0):,.1f} items/s, limited by {facts.get('limiting_stage', 'none')}")
        lost = f", {facts['lost']:,} attempts lost and done again" if facts.get("lost") else ""
        table.add_row("trouble", f"{facts.get('errors', 0):,} items with errors, {facts.get('splits', 0):,} units split{lost}")
    if facts.get("nodes"):
        table.add_row("nodes", ", ".join(f"{node} {units:,}" for node, units in facts["nodes"].items()))
    if facts.get("state") == "running" and facts.get("eta_seconds") is not None:
        table.add_row("left", f"about {duration(facts['eta_seconds'])}")
    started, updated = _epoch(facts.get("started")), _epoch(facts.get("updated"))
    if started is not None and updated is not None:
        table.add_row("time", f"{duration(updated - started)} since {facts['started']}, last news {duration(max(0.0, now - updated))} ago")
    if facts.get("host"):
        table.add_row("driver", str(facts["host"]))
    if facts.get("error"):
        table.add_row("error", str(facts["error"]))
    return table


def duration(seconds: float) -> str:
    """Return a time in words: 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    whole = round(seconds)
    for size, name, smaller, beside in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name} {rest} {beside}" if rest else f"{whole // size} {name}"
    if 0 < seconds < 0.05:
        return "under 0.1 s"
    return f"{whole} s" if seconds >= 10 or whole == seconds else f"{seconds:.1f} s"


def _state(facts: Mapping[str, Any], now: float) -> str:
    state, updated = str(facts.get("state", "unknown")), _epoch(facts.get("updated"))
    if state == "running" and updated is not None and now - updated > SILENT_SECONDS:
        return "no sign of life: killed, or its store does not answer; the same command again goes on"
    return state


def _share(done: int, total: int, what: str) -> str:
    share = f" ({done / total:.0%})" if total else ""
    return f"{done:,} of {total:,} {what}{share}"


def _training(facts: Mapping[str, Any]) -> str:
    if "pairs_per_second" not in facts:
        return "starting workers"
    loss = "not finite" if facts.get("loss") is None else f"{facts['loss']:.4g}"
    return f"loss {loss}, {facts['pairs_per_second']:,.0f} pairs/s, {facts.get('data_wait_share', 0):.0%} waiting for data"


def _epoch(text: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
