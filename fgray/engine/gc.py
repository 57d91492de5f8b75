"""Garbage collection of a result store: what none of the named runs reads goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE
from fgray.errors import ConfigError
from fgray.runs import RunFolder
from fgray.storage import open_storage

LEFTOVER_SECONDS = 24 * 3600.0  # no writer needs a day for one file
Needs = dict[str, pa.Array]  # kind -> ids; an id holds the fingerprint of what computed it, so a run may read of several models


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
    removed, kept = [], 0
    groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for info in storage.list():
        model, *rest = info.path.split("/")
        if len(rest) == 2 and rest[1].startswith("part-"):
            groups.setdefault((model, rest[0]), []).append((info.path, info.size))
    for (model, kind), parts in groups.items():
        left = needed.get(kind, pa.array([], ID_TYPE))
        results = ResultStore(store, model)
        for path, size in sorted(parts):
            ids = results.part_ids(path.partition("/")[2]) if len(left) else left
            serves = pc.is_in(left, value_set=ids)
            if len(left) and pc.any(serves).as_py():
                kept += 1
                left = left.filter(pc.invert(serves))
            else:
                removed.append((path, size))
    leftovers = storage.leftovers(LEFTOVER_SECONDS)
    if not dry_run:
        for path in (*(path for path, _ in removed), *(info.path for info in leftovers)):
            storage.delete(path)
    return Collected(len(removed), sum(size for _, size in removed), kept, len(leftovers), dry_run)


def _needed_items(runs: Sequence[str]) -> Needs:
    lists: dict[str, list[pa.Array]] = {}
    for run in runs:
        items = RunFolder(run).read_table(RunFolder.ITEMS)
        for kind in pc.unique(items["kind"]).to_pylist():
            lists.setdefault(kind, []).append(items.filter(pc.equal(items["kind"], kind))["item_id"].combine_chunks())
    return {kind: pc.unique(pa.concat_arrays(arrays)) for kind, arrays in lists.items()}
