"""Retries with exponential backoff and jitter, around errors that may pass by themselves."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from fgray.errors import StorageError

T = TypeVar("T")
ATTEMPTS = 5
FIRST_DELAY = 0.25  # seconds
LONGEST_DELAY = 4.0
PATIENCE = 45.0  # seconds after which no further attempt starts

_log = logging.getLogger(__name__)


class TransientError(Exception):
    """An attempt failed in a way that the next one may not.

    Args:
        final: what to raise when no attempt succeeded.
    """

    def __init__(self, final: StorageError) -> None:
        super().__init__(str(final))
        self.final = final


def with_retries(attempt: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Call `attempt` until it does not raise `TransientError`, at most ``ATTEMPTS`` times and within ``PATIENCE``.

    The delay is drawn evenly from 0 to a bound that doubles each time ("full jitter"), so that many workers that were
    refused together do not come back together.

    Raises:
        StorageError: the last attempt's, when all have failed; any other error of `attempt` at once.
    """
    start = time.monotonic()
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except TransientError as error:
            if number == ATTEMPTS or time.monotonic() - start > PATIENCE:
                raise error.final from error
            delay = random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**number))  # noqa: S311
            _log.info("attempt %d of %d failed, next in %.1f s: %s", number, ATTEMPTS, delay, error)
            sleep(delay)
    raise AssertionError("unreachable")
