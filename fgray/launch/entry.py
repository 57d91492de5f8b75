"""The frame of a process that a person or a cluster started: how it ends when it is told to stop, and how it says mistakes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgray.errors import FgrayError

PINS = "fgray-pins.txt"  # beside a job that was sent: what is installed where it comes from. No name that a project of the user's has


@contextmanager
def command_process() -> Iterator[None]:
    """Run the body as a command; a mistake that the user can mend is one line on standard error and exit status 1."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal or pipe that is not UTF-8
    try:
        yield
    except FgrayError as error:
        if os.environ.get("FGRAY_DEBUG"):
            raise
        for line in (str(error), *getattr(error, "__notes__", ())):
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # e.g. standard output on a full disk
        if os.environ.get("FGRAY_DEBUG"):
            raise
        where = f" [{error.filename}]" if error.filename else ""
        print(f"error: {error.strerror or error}{where}: FGRAY_DEBUG=1 shows where it happened", file=sys.stderr)
        sys.exit(1)


@contextmanager
def job_process() -> Iterator[None]:
    """Run the body as a job: a command that first compares what is installed here with what was where the job comes from.

    Raises:
        SystemExit: the job failed, as `command_process` says it, or versions differ that change numbers.
    """
    with command_process():
        if Path(PINS).is_file():
            from fgray.launch.remote.pins import check_installed

            for line in check_installed(Path(PINS).read_text()):
                print(f"note: {line}", file=sys.stderr)
        yield


def _terminate(number: int, frame: object) -> None:
    """End like an interrupt, which releases locks and stops workers: schedulers and spot machines ask so before they kill."""
    sys.exit(128 + number)
