"""Progress of units: rich bars on a terminal, plain lines elsewhere, a JSON line per report in the run's log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

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
    """

    units: int
    items: int
    stages: Sequence[Stage]
    stored: int = 0
    task: str = "embedding"
    done_units: int = 0
    done_items: int = 0
    splits: int = 0
    first_commit_seconds: float | None = None
    busy: dict[str, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._start = self._spoke = time.monotonic()
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

    def committed(self, kind: str, items: int, receipt: Receipt) -> None:
        """Count a committed unit of a request kind."""
        now = time.monotonic()
        if self.first_commit_seconds is None:
            self.first_commit_seconds, self._first_items = now - self._start, items
        self.done_units += 1
        self.done_items += items
        for stage, seconds in receipt.seconds.items():
            self.busy[stage] = self.busy.get(stage, 0.0) + seconds
        self.log.append(
            json.dumps(
                {
                    "event": "unit",
                    "kind": kind,
                    "items": items,
                    "errors": receipt.errors,
                    "seconds": _rounded(receipt.seconds),
                    "at": round(now - self._start, 3),
                }
            )
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done_items, detail=f"{self.done_units}/{self.units} units, {self._detail()}")
        elif now - self._spoke > LINE_SECONDS:
            self._spoke = now
            self._say(self._line())

    def split(self, items: int, reason: str) -> None:
        """Count a unit that was given up and will run again in halves."""
        self.splits += 1
        self.units += 1
        self.log.append(json.dumps({"event": "split", "items": items, "reason": reason}))
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
