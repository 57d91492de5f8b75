"""Composed benchmarks as folders: made once per options, bank and composer, whole or not at all, with the oracle's answers beside them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgray.errors import StorageError
from fgray.storage import Storage, open_storage
from fgray.synthesis.bank import ObjectBank, load_bank
from fgray.synthesis.compose import COMPOSER_VERSION, compose
from fgray.synthesis.oracle import answer

ORACLE_FILE = "oracle.json"  # written last: its presence says that the folder is whole


def folder_name(bank: ObjectBank, subsets: Sequence[str], cases: int, seed: int) -> str:
    """Return ``spec_style-HASH``, a name that changes with anything that changes the content."""
    parts = {"bank": bank.digest, "composer": COMPOSER_VERSION, "subsets": list(subsets), "cases": cases, "seed": seed}
    return f"spec_style-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def composed_folder(cache: str, subsets: Sequence[str], cases: int, seed: int) -> Storage:
    """Return the folder of a composed benchmark below `cache`, composing it first where it is not there.

    Args:
        cache: folder or s3:// prefix.
        subsets: names of `fgray.synthesis.layout.LAYOUTS`.
        cases: cases per subset.
        seed: seed of everything that is drawn.

    Raises:
        StorageError: `cache` cannot be written, or the disk is full.
    """
    bank = load_bank()
    place = open_storage(cache)
    name = folder_name(bank, subsets, cases, seed)
    target = place.child(name)
    if target.exists(ORACLE_FILE):
        return target
    # Beside the target, so that a local folder appears by one rename; the name marks what a killed process leaves as unfinished.
    parent = Path(place.uri) if place.is_local else Path(tempfile.gettempdir())
    scratch = parent / f".fgray-{name}-{uuid.uuid4().hex}"
    try:
        paths = _write(scratch, bank, subsets, cases, seed)
        if place.is_local:
            _rename(scratch, Path(target.uri))
        else:
            for path in paths:
                target.write_bytes(path, (scratch / path).read_bytes())
    except OSError as error:
        what = f"cannot write the composed images ({error.strerror})"
        raise StorageError(what, where=str(parent), fix="free some space or choose another place") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _write(folder: Path, bank: ObjectBank, subsets: Sequence[str], cases: int, seed: int) -> list[str]:
    """Compose into a local folder and return the relative paths in the order in which they are to be copied."""
    paths = []
    for path, content in compose(bank, subsets, cases, seed):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        paths.append(path)
    entries = answer(lambda path: (folder / path).read_bytes(), bank, subsets)
    (folder / ORACLE_FILE).write_text(json.dumps(entries, indent=1) + "\n")
    return [*paths, ORACLE_FILE]


def _rename(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError:
        if (target / ORACLE_FILE).exists():
            return  # another process was faster and made the same
        shutil.rmtree(target, ignore_errors=True)  # somebody took files out of it
        scratch.rename(target)


def read_oracle(folder: Storage) -> dict[str, dict[str, Any]]:
    """Return what the oracle answered when the folder was composed."""
    return dict(json.loads(folder.read_bytes(ORACLE_FILE)))
