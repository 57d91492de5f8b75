"""Follows what a job writes, through dropped connections, without a line twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from fgray.errors import RunError
from fgray.launch.clusters.dashboard import TokenError
from fgray.launch.remote.server import JobServer, JobState, UnknownJobError

PATIENCE_SECONDS = 600.0  # without any answer
_PAUSES = (0.5, 1.0, 2.0, 5.0)  # between tries to reach the server again; the last one holds
_SILENT_TRIES = 2  # before the user is told


def follow(
    reach: Callable[[], AbstractContextManager[JobServer]], job: str, write: Callable[[str], None], note: Callable[[str], None]
) -> JobState:
    """Hand on what a job writes until it has ended.

    Ray's stream starts with the job's first letter whenever it is opened, so after a broken connection what was shown is skipped.

    Args:
        reach: opens the way to the job server; it is opened anew when it breaks.
        job: its id.
        write: takes text as it comes.
        note: takes a line for the user where the cluster does not answer any more.

    Returns:
        how the job ended.

    Raises:
        RunError: the cluster knows no such job, refuses the token, cannot be reached at first, or has not answered for ten minutes.
    """
    shown, tries = 0, 0
    met: float | None = None  # when the cluster answered last

    async def stream(server: JobServer) -> None:
        nonlocal shown, tries
        position = 0
        async for text in server.tail(job):
            tries = 0
            position += len(text)
            if position > shown:
                write(text[len(text) - (position - shown) :])
                shown = position

    while True:
        try:
            with reach() as server:
                server.state(job)  # a job that is unknown is said at once
                met = time.monotonic()
                try:
                    asyncio.run(stream(server))
                finally:
                    met = time.monotonic()
                state = server.state(job)
                if state.ended:
                    _rest(server, job, shown, write, note)
                    return state
        except (TokenError, UnknownJobError):
            raise
        except RunError as error:
            if met is None:
                raise
            if tries == _SILENT_TRIES:
                note("the cluster does not answer; trying for ten minutes (Ctrl-C leaves the job to itself)")
            if time.monotonic() - met > PATIENCE_SECONDS:
                fix = f"the job may go on; come back with: fgray logs -f {job}"
                raise RunError("the cluster has not answered for ten minutes", where=error.where, fix=fix) from error
        time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
        tries += 1


def _rest(server: JobServer, job: str, shown: int, write: Callable[[str], None], note: Callable[[str], None]) -> None:
    """Write what the stream has left out; how the job ended is known, whatever becomes of its log."""
    try:
        write(server.log(job)[shown:])
    except RunError as error:
        note(f"the end of the log cannot be read ({error.what})")
