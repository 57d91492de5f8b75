"""Hex digests that pin a model by content: weights, tokenizer, settings; never by place or time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON-like facts; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a local file, read once per process while its size and time of change stay the same."""
    status = path.stat()
    return _file_sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _file_sha256(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
