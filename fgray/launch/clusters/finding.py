"""What a check of a cluster file has to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from fgray.config.source import Path as Keys
from fgray.config.source import dotted
from fgray.launch.clusters.file import ClusterFile


class Finding(NamedTuple):
    """One thing that is wrong with a cluster file ("problem") or worth knowing ("note").

    Attributes:
        where: path in the YAML, e.g. ``provider.region``.
        place: file and line.
    """

    level: Literal["problem", "note"]
    where: str
    what: str
    fix: str
    place: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what} [{self.where}, {self.place}]: {self.fix}"


def problem(file: ClusterFile, keys: Keys, what: str, fix: str) -> Finding:
    """Return a finding that must be mended before the cluster is started."""
    return Finding("problem", dotted(keys) or "the file", what, fix, file.where(keys))


def note(file: ClusterFile, keys: Keys, what: str, fix: str) -> Finding:
    """Return a finding that the user may have meant."""
    return Finding("note", dotted(keys) or "the file", what, fix, file.where(keys))


def walk(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield every value of a nested structure with its path, containers before what is in them."""
    yield keys, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from walk(item, (*keys, key))
