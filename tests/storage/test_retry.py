"""Which failures are tried again, how often and how long."""

from __future__ import annotations

import pytest

from fgray.errors import StorageError
from fgray.storage.retry import ATTEMPTS, FIRST_DELAY, LONGEST_DELAY, TransientError, with_retries


def failing(times: int, error: Exception):  # noqa: ANN201
    calls = []

    def attempt() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return attempt, calls


def test_passing_errors_are_outlived() -> None:
    delays: list[float] = []
    attempt, calls = failing(ATTEMPTS - 1, TransientError(StorageError("busy")))
    assert with_retries(attempt, delays.append) == "done" and len(calls) == ATTEMPTS
    bounds = [min(LONGEST_DELAY, FIRST_DELAY * 2**n) for n in range(1, ATTEMPTS)]
    assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))


def test_delays_are_spread() -> None:
    delays: list[float] = []
    for _ in range(200):
        attempt, _ = failing(1, TransientError(StorageError("busy")))
        with_retries(attempt, delays.append)
    assert min(delays) < 0.1 and max(delays) > 0.4 and len(set(delays)) == 200


def test_the_last_error_is_told() -> None:
    attempt, calls = failing(99, TransientError(StorageError("busy", fix="wait")))
    with pytest.raises(StorageError, match="busy: wait"):
        with_retries(attempt, lambda _: None)
    assert len(calls) == ATTEMPTS


def test_other_errors_are_not_retried() -> None:
    attempt, calls = failing(99, StorageError("wrong key"))
    with pytest.raises(StorageError, match="wrong key"):
        with_retries(attempt, lambda _: None)
    assert len(calls) == 1
