"""Follows what a job writes, through dropped connections, without a line twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from fgray.errors import RunError
from fgray.launch.remote.server import JobServer, JobState, NoAnswerError

PATIENCE_SECONDS = 600.0  # without any answer
_PAUSES = (0.5, 1.0, 2.0, 5.0)  # between tries to reach the server again; the last one holds


def follow(reach: Callable[[], AbstractContextManager[JobServer]], job: str, write: Callable[[str], None]) -> JobState:
    """Hand on what a job writes until it has ended.

    Ray's stream starts with the job's first letter whenever it is opened, so after a broken connection what was shown is skipped.

    Args:
        reach: opens the way to the job server; it is opened anew when it breaks.
        job: its id.
        write: takes text as it comes.

    Returns:
        how the job ended.

    Raises:
        RunError: the cluster knows no such job, refuses the token, or has not answered for ten minutes.
    """
    shown, failures, heard = 0, 0, time.monotonic()

    async def stream(server: JobServer) -> None:
        nonlocal shown, failures, heard
        position = 0
        async for text in server.tail(job):
            failures, heard = 0, time.monotonic()
            position += len(text)
            if position > shown:
                write(text[len(text) - (position - shown) :])
                shown = position

    while True:
        try:
            with reach() as server:
                server.state(job)  # a job that is unknown is said at once
                asyncio.run(stream(server))
                state = server.state(job)
                if state.ended:
                    write(server.log(job)[shown:])
                    return state
        except NoAnswerError as error:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                fix = f"the job may go on; come back with: fgray logs -f {job}"
                raise RunError("the cluster has not answered for ten minutes", where=error.where, fix=fix) from error
        time.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
        failures += 1
