"""Garbage collection of a result store: what none of the named runs reads goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from fgray.engine.idsets import IdTable, locate
from fgray.engine.store import ResultStore
from fgray.errors import ConfigError
from fgray.runs import RunFolder
from fgray.storage import FileInfo, open_storage

LEFTOVER_SECONDS = 24 * 3600.0  # no writer needs a day for one file


@dataclass(frozen=True)
class Collected:
    """What a collection removed (or would remove).

    Attributes:
        parts: number of result parts that went.
        bytes: their size.
        kept: number of parts that stay.
        leftovers: number of half-written files of killed writers that went.
        dry_run: nothing was removed, only counted.
    """

    parts: int
    bytes: int
    kept: int
    leftovers: int
    dry_run: bool


def collect(store: str, runs: Sequence[str], dry_run: bool = False) -> Collected:
    """Remove every part from which no named run reads an item.

    A part goes when none of its items is needed, or when every needed one also stands in a part that comes before it
    (duplicates are read from the smallest unit id). A run that is at work on the store and not named loses what it has
    computed so far, and computes it again when resumed. Files that killed writers left half-written a day ago go, too.

    Raises:
        ConfigError: no run is named, which would empty the store.
        NotFound: a run has not got as far as its list of items.
    """
    if not runs:
        raise ConfigError("no run is named", where=store, fix="name the runs that stay: fgray store gc STORE RUN…")
    needed = _needed_items(runs)
    storage = open_storage(store)
    removed: list[FileInfo] = []
    kept = 0
    groups: dict[tuple[str, str], list[FileInfo]] = {}
    for info in storage.list():
        model, *rest = info.path.split("/")
        if len(rest) == 2 and rest[1].startswith("part-"):
            groups.setdefault((model, rest[0]), []).append(info)
    for (model, kind), parts in groups.items():
        results = ResultStore(store, model)
        serving = _serving(results, kind, needed[kind]) if kind in needed else set()
        gone = [info for info in parts if info.path.partition("/")[2] not in serving]
        kept += len(parts) - len(gone)
        removed += gone
        if gone and not dry_run:
            results.trim(kind, serving)
    leftovers = storage.leftovers(LEFTOVER_SECONDS)
    if not dry_run:
        for info in (*removed, *leftovers):
            storage.delete(info.path)
    return Collected(len(removed), sum(info.size for info in removed), kept, len(leftovers), dry_run)


def _serving(results: ResultStore, kind: str, needed: IdTable) -> set[str]:
    """Return the paths of the parts from which a needed item is read: of equal ones the smallest."""
    paths, stored = results.placed(kind)
    places = locate(needed, stored)
    return {paths[at] for at in np.unique(places[places >= 0])}


def _needed_items(runs: Sequence[str]) -> dict[str, IdTable]:
    """Return kind -> ids; an id holds the fingerprint of what computed it, so a run may read of several models."""
    needed: dict[str, IdTable] = {}
    for run in runs:
        for items in RunFolder(run).read_slices(RunFolder.ITEMS):
            for kind in pc.unique(items["kind"]).to_pylist():
                needed.setdefault(kind, IdTable()).add(items.filter(pc.equal(items["kind"], kind))["item_id"])
    return needed
