"""progress.json in a run folder: what a running job has done so far, for whoever looks at the folder from elsewhere.

It is written about every ten seconds by a thread of its own. It is news, not a result: a store that does not take it costs the run nothing.
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
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._warned = False
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        self._thread.start()

    def update(self, **facts: Any) -> None:
        """Take over facts; cheap enough for every unit."""
        with self._lock:
            self._facts.update(facts)
        if self._parent is not None:
            self._parent.update(part=self._part, **{name: value for name, value in facts.items() if name != "error"})

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
            ended = self._stop.wait(WRITE_SECONDS)
        self._write()

    def _write(self) -> None:
        try:
            self._folder.write_json(PROGRESS, {**self.facts(), "updated": _now()})
        except Exception as error:  # whatever it is, the run goes on
            if not self._warned:
                _log.warning("progress.json was not written, the run goes on: %s", error)
            self._warned = True


def _now() -> str:
    """Return the time to the second, in UTC."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
