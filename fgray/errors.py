"""Errors that a user can act on: one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FgrayError(Exception):
    """A mistake or failure outside fgray's code; the CLI prints its single line and exits with 1.

    Args:
        what: what is wrong, as a clause without a final full stop.
        where: file, line, key or address that it concerns.
        fix: what the user can do about it, as an imperative clause.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        remedy = f": {self.fix}" if self.fix else ""
        return " ".join(f"{self.what}{place}{remedy}".split())

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive Exception's own pickling (Ray sends errors between processes).
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(kind: type[FgrayError], what: str, where: str | None, fix: str | None) -> FgrayError:
    return kind(what, where=where, fix=fix)


class ConfigError(FgrayError):
    """The configuration file or a command-line override is wrong."""


class DataError(FgrayError):
    """Input data is missing, has the wrong layout or contradicts its own index."""


class ModelError(FgrayError):
    """A model cannot be built, loaded or trusted."""


class StorageError(FgrayError):
    """A file or object cannot be read or written (after retries where those can help)."""


class NotFound(StorageError):
    """The named file or object does not exist."""


class RunError(FgrayError):
    """A run cannot start or finish: locked output, too many corrupt items, items unaccounted for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest known name, else the list of all of them."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(options) if options else "nothing is known here"
