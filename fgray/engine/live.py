"""progress.json and log.jsonl in a run folder: what a running job has done so far, for whoever looks at the folder from elsewhere.

They are written about every ten seconds by a thread of its own, so that what is known of a run outlives its process. They are news, not
results: a store that does not take them costs the run nothing. A training writes its log itself, in step with its checkpoints.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from fgray.config.schema import Job
from fgray.errors import FgrayError
from fgray.runs import RunFolder

PROGRESS = "progress.json"
WRITE_SECONDS = 10.0
GROWTH = 1.05  # of a log that is written again, as a whole because no store appends
CLOSE_SECONDS = 10.0  # that the end of a run waits for its last news to be written

_log = logging.getLogger(__name__)
_current: ContextVar[Live | None] = ContextVar("live", default=None)


def live() -> Live | None:
    """Return the news of the run that this thread is doing; None outside a run."""
    return _current.get()


@contextmanager
def live_progress(folder: RunFolder, job: Job) -> Iterator[Live]:
    """Keep progress.json up to date while the body runs a job; at the end it says how the job ended."""
    parent = _current.get()
    news = Live(folder, {"job": job.job, "name": job.name}, parent)
    token = _current.set(news)
    state = "failed"
    try:
        yield news
        state = "finished"
    except FgrayError as error:
        news.update(error=str(error))
        raise
    except (KeyboardInterrupt, SystemExit):
        state = "stopped"
        raise
    finally:
        _current.reset(token)
        news.close(state)


class Live:
    """The newest facts of one run.

    Args:
        folder: the run folder.
        facts: what is known from the start.
        parent: the run that this one is a part of; it tells what its part does.
    """

    def __init__(self, folder: RunFolder, facts: dict[str, Any], parent: Live | None = None) -> None:
        self._folder, self._parent, self._part = folder, parent, facts["name"]
        self._facts = {**facts, "state": "running", "host": socket.gethostname(), "started": _now()}
        self._keeps_log = facts["job"] != "train_clip"
        self._logs: list[list[str]] = []
        self._earlier: bytes | None = None  # rows of attempts before this one
        self._logged = 0  # lines of this attempt in the file
        self._warned: set[str] = set()
        self._stop = threading.Event()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        self._thread.start()

    def update(self, **facts: Any) -> None:
        """Take over facts; cheap enough for every unit."""
        with self._lock:
            self._facts.update(facts)
        if self._parent is not None:
            self._parent.update(part=self._part, **{name: value for name, value in facts.items() if name != "error"})

    def follow(self, log: list[str]) -> None:
        """Keep the lines of a list that grows in log.jsonl, after those of earlier attempts and lists."""
        if self._keeps_log:
            self._logs.append(log)

    def write_log(self) -> None:
        """Bring log.jsonl up to date."""
        with self._writing:
            lines = [line for log in self._logs for line in log]
            if len(lines) == self._logged:
                return
            try:
                if self._earlier is None:
                    known = self._folder.storage.exists(RunFolder.LOG)
                    self._earlier = self._folder.storage.read_bytes(RunFolder.LOG) if known else b""
                self._folder.storage.write_bytes(RunFolder.LOG, self._earlier + "".join(line + "\n" for line in lines).encode())
                self._logged = len(lines)
            except Exception as error:  # whatever it is, the run goes on
                self._warn(RunFolder.LOG, error)

    def facts(self) -> dict[str, Any]:
        """Return the facts as progress.json has them."""
        with self._lock:
            return dict(self._facts)

    def close(self, state: str) -> None:
        """Say how the run ended and stop writing."""
        with self._lock:
            self._facts["state"] = state
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)  # a store that does not answer holds up nobody: the thread dies with the process

    def _write_on(self) -> None:
        ended = False
        while not ended:
            self._write()
            if self._grown():
                self.write_log()
            ended = self._stop.wait(WRITE_SECONDS)
        self._write()
        self.write_log()

    def _write(self) -> None:
        try:
            self._folder.write_json(PROGRESS, {**self.facts(), "updated": _now()})
        except Exception as error:  # whatever it is, the run goes on
            self._warn(PROGRESS, error)

    def _grown(self) -> bool:
        before = self._logged + (0 if self._earlier is None else self._earlier.count(b"\n"))
        return sum(map(len, self._logs)) - self._logged > (GROWTH - 1) * before

    def _warn(self, name: str, error: Exception) -> None:
        if name not in self._warned:
            _log.warning("%s was not written, the run goes on: %s", name, error)
        self._warned.add(name)


def _now() -> str:
    """Return the time to the second, in UTC."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
