"""A digest of what a configuration means, whatever it looks like and wherever things lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from fgray.config.places import Keys, find_places, looks_like_place
from fgray.config.schema import Job

# Where and how a job runs does not change its result. Compute changes the numerics class at most, which run.json states.
_JOB_LOCATIONS = ("name", "output", "store", "cluster", "compute")
# How a loop judges its parts, each a run of its own that guards itself: this may be corrected without training again.
_OF_THE_VERDICT = ("gates", "wise_ft", "subject", "seeds", "stats", "primary")
_MAYBE = ("file_or_name", "folder_or_name", "module")  # a place, or a published name


def fingerprint(job: Job) -> str:
    """Return a hex SHA-256 of the job's meaning.

    Comments, the order of keys, defaults spelled out or left out, locations (``output``, ``store``, ``data.root``,
    paths of checkpoints, negatives and boxes), ``name``, ``cluster``, ``compute`` and ``data.max_corrupt_fraction`` do not change it. What
    lies at a location enters a result through the fingerprints of the model and of the cases. A relative folder without
    a leading ``./`` looks like a hub name and counts as meaning. Of a loop, only what it trains, mines and evaluates counts.
    """
    meaning = job.model_dump(mode="json", exclude=set(_JOB_LOCATIONS))
    if job.job == "loop":
        for key in _OF_THE_VERDICT:
            meaning.pop(key)
        for part in (meaning["base"], meaning["mine"], *meaning["arms"].values()):
            (part or {}).pop("compute", None)
    if "data" in meaning:
        meaning["data"].pop("root")
        meaning["data"].pop("max_corrupt_fraction")  # decides whether a run may finish, never what it says
    if "search" in meaning:
        meaning["search"].pop("memory_gib")  # the results are exact whatever the tiles
    for benchmark in _benchmarks(meaning):
        benchmark.pop("root")
        benchmark.pop("images", None)
    for found in find_places(job, lambda section: None):
        if found.place.kind in ("input", "output") or (found.place.kind in _MAYBE and looks_like_place(found.text)):
            _blank(meaning, found.keys)
    text = json.dumps(meaning, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _blank(content: Any, keys: Keys) -> None:
    """Take a value out of a mapping, or leave its place in a list empty; what was taken out with its section before is gone already."""
    *outer, last = keys
    for key in outer:
        if isinstance(content, dict) and key not in content:
            return
        content = content[key]
    if isinstance(content, list):
        content[int(last)] = None
    else:
        content.pop(last, None)


def _benchmarks(content: Any) -> Iterator[dict[str, Any]]:
    """Yield every section of a benchmark: those that have a name and a root, which may be null."""
    if isinstance(content, dict):
        if {"name", "root"} <= content.keys():
            yield content
        for value in content.values():
            yield from _benchmarks(value)
    elif isinstance(content, list):
        for value in content:
            yield from _benchmarks(value)
