"""Progress of a training run, as its log tells it: workers may be on other machines, so the log is what there is to watch."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from fgray.engine.live import Live, live
from fgray.errors import FgrayError
from fgray.runs import RunFolder
from fgray.training.log import read_log

POLL_SECONDS = 2.0
LINE_SECONDS = 10.0  # between plain lines


@contextmanager
def watch(folder: RunFolder, steps: int) -> Iterator[None]:
    """Show steps, rate, loss and the time left while the body trains: a bar on a terminal, lines elsewhere."""
    stop = threading.Event()
    log = _Log(folder, steps, live())
    thread = threading.Thread(target=_bar if sys.stderr.isatty() else _lines, args=(log, steps, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Log:
    """The newest row of a run's log, which is passed on to its progress.json."""

    def __init__(self, folder: RunFolder, steps: int, news: Live | None) -> None:
        self._folder, self._steps, self._news = folder, steps, news
        self._tell(0, {})

    def last(self) -> tuple[int, str, float]:
        """Return the step, a description and the rate of the newest row; nothing yet gives (0, "starting workers", 0)."""
        try:
            rows = [row for row in read_log(self._folder) if "loss" in row]
        except (FgrayError, ValueError):  # a store that does not answer now; the workers have their own way to say so
            rows = []
        if not rows:
            return 0, "starting workers", 0.0
        row = rows[-1]
        self._tell(row["step"], row)
        loss = "not finite" if row["loss"] is None else f"{row['loss']:.4g}"
        text = f"loss {loss}, {row['pairs_per_second']:.0f} pairs/s, {row['data_wait_share']:.0%} waiting for data"
        return row["step"], text, row["steps_per_second"]

    def _tell(self, step: int, row: dict[str, Any]) -> None:
        if self._news is None:
            return
        rate = row.get("steps_per_second")
        numbers = {name: row[name] for name in ("loss", "pairs_per_second", "data_wait_share", "memory_gib") if name in row}
        eta = round((self._steps - step) / rate, 1) if rate else None
        self._news.update(task="training", step=step, steps=self._steps, eta_seconds=eta, **numbers)


def _bar(log: _Log, steps: int, stop: threading.Event) -> None:
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=steps, detail="starting workers")
        ended = False
        while not ended:
            ended = stop.wait(POLL_SECONDS)
            done, detail, _ = log.last()
            bar.update(task, completed=done, detail=detail)


def _lines(log: _Log, steps: int, stop: threading.Event) -> None:
    said, spoke = -1, 0.0
    ended = False
    while not ended:
        ended = stop.wait(POLL_SECONDS)
        done, detail, rate = log.last()
        if done != said and (ended or time.monotonic() - spoke > LINE_SECONDS):
            left = f", about {(steps - done) / rate:.0f} s left" if rate and done < steps else ""
            print(f"step {done}/{steps}, {detail}{left}", file=sys.stderr, flush=True)
            said, spoke = done, time.monotonic()
