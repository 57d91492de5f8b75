"""A digest of what a configuration means, whatever it looks like and wherever things lie."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fgray.config.schema import Job

# Where and how a job runs does not change its result. Compute changes the numerics class at most, which run.json states.
_JOB_LOCATIONS = ("name", "output", "store", "cluster", "compute")
# How a loop judges its parts, each a run of its own that guards itself: this may be corrected without training again.
_OF_THE_VERDICT = ("gates", "wise_ft", "subject", "seeds", "stats", "primary")
_BENCHMARK_LOCATIONS = ("root", "images")
_MODEL_LOCATIONS = ("scores", "image_embeddings", "text_embeddings")
_MAYBE_LOCATIONS = ("arch", "weights", "path")
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".json")


def fingerprint(job: Job) -> str:
    """Return a hex SHA-256 of the job's meaning.

    Comments, the order of keys, defaults spelled out or left out, locations (``output``, ``store``, ``data.root``,
    paths of checkpoints), ``name``, ``cluster``, ``compute`` and ``data.max_corrupt_fraction`` do not change it. What
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
    for benchmark in [*meaning.get("benchmarks", []), *(meaning.get(key) or {} for key in ("pairs", "corpus", "classes"))]:
        for location in _BENCHMARK_LOCATIONS:
            benchmark.pop(location, None)
    for part in ("model", "language_model", "plausibility"):
        if meaning.get(part):
            meaning[part] = {key: value for key, value in meaning[part].items() if not _is_location(key, value)}
    text = json.dumps(meaning, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_location(key: str, value: Any) -> bool:
    if key in _MODEL_LOCATIONS:
        return True
    if key not in _MAYBE_LOCATIONS or not isinstance(value, str):
        return False
    # A pretrained tag, an architecture, a hub name or a Python path is meaning; a file or folder is a place.
    return "://" in value or value.startswith(("/", "./", "../", "~")) or value.endswith(_FILE_SUFFIXES)
