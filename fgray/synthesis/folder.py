"""Composed benchmarks as folders: made once per options, bank and composer, whole or not at all, with the oracle's answers beside them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Sequence
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


def composed_folder(cache: str, subsets: Sequence[str], cases: int, seed: int, bank: ObjectBank | None = None) -> Storage:
    """Return the folder of a composed benchmark below `cache`, composing it first where it is not there.

    Args:
        cache: folder or s3:// prefix.
        subsets: names of `fgray.synthesis.layout.LAYOUTS`.
        cases: cases per subset.
        seed: seed of everything that is drawn.
        bank: where objects and backgrounds come from; None: the photographs of the package.

    Raises:
        StorageError: `cache` cannot be written, or the disk is full.
    """
    source = bank or load_bank()

    def write(folder: Path) -> list[str]:
        paths = write_files(folder, compose(source, subsets, cases, seed))
        entries = answer(lambda path: (folder / path).read_bytes(), source, subsets)
        (folder / ORACLE_FILE).write_text(json.dumps(entries, indent=1) + "\n")
        return [*paths, ORACLE_FILE]

    return kept_folder(cache, folder_name(source, subsets, cases, seed), ORACLE_FILE, write)


def kept_folder(cache: str, name: str, last: str, write: Callable[[Path], list[str]]) -> Storage:
    """Return the folder `name` below `cache`, making it first where it is not there whole.

    Args:
        cache: folder or s3:// prefix.
        name: of the folder; it says what is in it.
        last: the file that is written last, so its presence says that the folder is whole.
        write: fills a new local folder and returns the relative paths in the order in which they are to be copied, `last` at the end.

    Raises:
        StorageError: `cache` cannot be written, or the disk is full.
    """
    place = open_storage(cache)
    target = place.child(name)
    if target.exists(last):
        return target
    # Beside the target, so that a local folder appears by one rename; the name marks what a killed process leaves as unfinished.
    parent = Path(place.uri) if place.is_local else Path(tempfile.gettempdir())
    scratch = parent / f".fgray-{name}-{uuid.uuid4().hex}"
    try:
        paths = write(scratch)
        if place.is_local:
            _rename(scratch, Path(target.uri), last)
        else:
            for path in paths:
                target.write_bytes(path, (scratch / path).read_bytes())
    except OSError as error:
        what = f"cannot write the composed images ({error.strerror})"
        raise StorageError(what, where=str(parent), fix="free some space or choose another place") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write (relative path, content) below a local folder and return the paths."""
    paths = []
    for path, content in files:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        paths.append(path)
    return paths


def _rename(scratch: Path, target: Path, last: str) -> None:
    try:
        scratch.rename(target)
    except OSError:
        if (target / last).exists():
            return  # another process was faster and made the same
        shutil.rmtree(target, ignore_errors=True)  # somebody took files out of it
        scratch.rename(target)


def read_oracle(folder: Storage) -> dict[str, dict[str, Any]]:
    """Return what the oracle answered when the folder was composed."""
    return dict(json.loads(folder.read_bytes(ORACLE_FILE)))
