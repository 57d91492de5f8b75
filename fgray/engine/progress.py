"""Progress of units: rich bars on a terminal, plain lines elsewhere, a JSON line per report in the run's log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from fgray.engine.live import live
from fgray.engine.stages import Receipt, Stage

LINE_SECONDS = 5.0  # between plain lines


@dataclass
class Progress:
    """Counts what was committed and says how fast, how long still, and which stage limits.

    Attributes:
        units, items: what is to be done in all.
        stages: the pipeline, for the limiting stage.
        stored: items that were already in the store.
        task: what is done to them, as the bar says.
        errors: committed items that carry an error.
        startup_seconds: until the first unit was begun.
        running_seconds: in all, once the body has ended.
        lost: attempts that died with their worker or node, and were done again.
        busy: stage -> seconds of its workers.
        by_kind: request kind -> its items ("items") and the seconds that each stage was busy with them.
        nodes: node -> committed units, where receipts name one.
        log: lines of log.jsonl.
    """

    units: int
    items: int
    stages: Sequence[Stage]
    stored: int = 0
    task: str = "embedding"
    done_units: int = 0
    done_items: int = 0
    errors: int = 0
    splits: int = 0
    lost: int = 0
    first_commit_seconds: float | None = None
    startup_seconds: float = 0.0
    running_seconds: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._start = self._spoke = time.monotonic()
        self._live = live()
        if self._live is not None:
            self._live.follow(self.log)
        if self.units:
            self.log.append(json.dumps({"event": "start", "units": self.units, "items": self.items, "stored": self.stored, "at": 0.0}))
        self._tell()
        self._bar: RichProgress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self.task, total=self.items, detail="starting workers")
            self._bar.start()
        elif self.units:
            self._say(f"{self.items} items in {self.units} units to compute, {self.stored} already stored")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.units and kind is None:
            self._say(self._line())
        self.running_seconds = time.monotonic() - self._start
        if self._live is not None and kind is None:  # a report may be next; of a run that ends here, its news write the rest
            self._live.write_log()

    def committed(self, kind: str, items: int, receipt: Receipt) -> None:
        """Count a committed unit of a request kind."""
        now = time.monotonic()
        if self.first_commit_seconds is None:
            self.first_commit_seconds, self._first_items = now - self._start, items
            self.startup_seconds = max(0.0, self.first_commit_seconds - sum(receipt.seconds.values()))
        self.done_units += 1
        self.done_items += items
        self.errors += receipt.errors
        one = self.by_kind.setdefault(kind, {"items": 0})
        one["items"] += items
        for stage, seconds in receipt.seconds.items():
            self.busy[stage] = self.busy.get(stage, 0.0) + seconds
            one[stage] = one.get(stage, 0.0) + seconds
        row: dict[str, Any] = {
            "event": "unit",
            "kind": kind,
            "items": items,
            "errors": receipt.errors,
            "seconds": _rounded(receipt.seconds),
        }
        if receipt.node:
            self.nodes[receipt.node] = self.nodes.get(receipt.node, 0) + 1
            row["node"] = receipt.node
        if receipt.lost:
            self.lost += receipt.lost
            row["lost"] = receipt.lost
        self.log.append(json.dumps({**row, "at": round(now - self._start, 3)}))
        self._tell()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done_items, detail=f"{self.done_units}/{self.units} units, {self._detail()}")
        elif now - self._spoke > LINE_SECONDS:
            self._spoke = now
            self._say(self._line())

    def split(self, items: int, reason: str) -> None:
        """Count a unit that was given up and will run again in halves."""
        self.splits += 1
        self.units += 1
        at = round(time.monotonic() - self._start, 3)
        self.log.append(json.dumps({"event": "split", "items": items, "reason": reason, "at": at}))
        self._tell()
        self._say(f"a unit of {items} items was given up and is split ({reason})")

    def limiting_stage(self) -> str:
        """Return the stage whose workers were busiest, per worker; committing counts to the last stage."""
        if not self.busy:
            return "none"
        per_worker = {stage.name: self.busy.get(stage.name, 0.0) / stage.workers for stage in self.stages}
        per_worker[self.stages[-1].name] += self.busy.get("commit", 0.0) / self.stages[-1].workers
        return max(per_worker, key=lambda name: per_worker[name])

    def rate(self) -> float:
        """Return items per second; once a second unit is in, without the time that the workers took to start."""
        elapsed, items = time.monotonic() - self._start, self.done_items
        if self.done_units > 1 and self.first_commit_seconds is not None:
            elapsed, items = elapsed - self.first_commit_seconds, items - self._first_items
        return items / elapsed if elapsed > 0 else 0.0

    def measured(self) -> dict[str, Any]:
        """Return what run.json says under "timing" of the run's speed: seconds of workers, not of the clock, by kind and stage."""
        return {
            "startup_seconds": round(self.startup_seconds, 3),
            "running_seconds": round(self.running_seconds, 3),
            "limiting_stage": self.limiting_stage(),
            "items_per_second": round(self.rate(), 3),
            "workers": {stage.name: stage.workers for stage in self.stages},
            "by_kind": {kind: _rounded(one) for kind, one in self.by_kind.items()},
            "nodes": dict(self.nodes),
        }

    def _tell(self) -> None:
        """Pass the state on to the run's progress.json."""
        if self._live is None:
            return
        rate = self.rate()
        self._live.update(
            task=self.task,
            units={"done": self.done_units, "total": self.units},
            items={"done": self.done_items, "total": self.items, "stored": self.stored},
            rate=round(rate, 3),
            eta_seconds=round((self.items - self.done_items) / rate, 1) if rate else None,
            limiting_stage=self.limiting_stage(),
            errors=self.errors,
            splits=self.splits,
            lost=self.lost,
            nodes=dict(self.nodes),
        )

    def _detail(self) -> str:
        return f"{self.rate():.1f} items/s, limited by {self.limiting_stage()}"

    def _line(self) -> str:
        rate = self.rate()
        left = (self.items - self.done_items) / rate if rate else 0.0
        return f"{self.done_units}/{self.units} units, {self.done_items}/{self.items} items, {self._detail()}, about {left:.0f} s left"

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in seconds.items()}
