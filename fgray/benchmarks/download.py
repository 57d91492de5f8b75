"""Resumable downloads, digests and safe unpacking."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from fgray.errors import DataError, StorageError
from fgray.storage.local import is_local_error, local_error

_BLOCK = 1 << 20
_ATTEMPTS = 5
_TIMEOUT_S = 60
_SCRATCH = ".unpack-"
_LINE_S = 5.0  # between lines of progress


def download(
    url: str, target: Path, *, size: int | None = None, report: Callable[[str], None] = lambda line: None, pause_s: float = 1.0
) -> Path:
    """Download to `target`, continuing an interrupted attempt of this or an earlier call.

    The bytes gather in ``target.part``; beside it stands the server's ETag, so that a file that changed in between is
    started over. `target` appears only when it is whole.

    Args:
        url: http or https address.
        target: local path; its folder is made.
        size: expected bytes; a file of another length is an error once the server says it is whole.
        report: called with one line every few seconds, and per retry.
        pause_s: pause before the first retry in seconds; it doubles.

    Returns:
        `target`.

    Raises:
        StorageError: the server refuses, cannot be reached, or breaks off every time; or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            expected = _continue(url, part, lambda have, whole: report(f"{target.name}: {_progress(have, whole)}"))
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise StorageError(f"the server answers {error.code} {error.reason}", where=url, fix="check the address") from error
            problem = f"the server answers {error.code}"
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and is_local_error(error):
                raise local_error(error, str(part)) from error
            problem = str(getattr(error, "reason", "") or error) or type(error).__name__
        else:
            have = part.stat().st_size
            if expected is None or have == expected:
                part.replace(target)
                _etag_file(part).unlink(missing_ok=True)
                return target
            if have > expected:
                part.unlink()
            problem = f"the connection broke off at {have} of {expected} bytes"
        report(f"{target.name}: {problem}, trying again")
    raise StorageError(f"cannot download: {problem}", where=url, fix="check the network, then run the same command again: it resumes")


def _progress(have: int, whole: int | None) -> str:
    return f"{have / 1e6:,.0f} MB" if not whole else f"{have / 1e6:,.0f} of {whole / 1e6:,.0f} MB ({have / whole:.0%})"


def _continue(url: str, part: Path, report: Callable[[int, int | None], None]) -> int | None:
    """Ask for the rest of the file and append it; return the whole length that the server states."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    etag_file = _etag_file(part)
    if have and etag_file.exists():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag_file.read_text())
    elif have:
        part.unlink()  # without an ETag nothing says that the rest belongs to the same file
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send, or the file is shorter now
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total) if total.isdecimal() else have
        raise
    with response:
        resumed = response.status == 206
        stated = response.headers.get("Content-Length")
        expected = None if stated is None else int(stated) + (have if resumed else 0)
        if not resumed:
            etag = response.headers.get("ETag", "")
            if etag and not etag.startswith("W/"):
                etag_file.write_text(etag)
            else:
                etag_file.unlink(missing_ok=True)
        with part.open("ab" if resumed else "wb") as file:
            spoke = time.monotonic()
            while block := response.read(_BLOCK):
                file.write(block)
                if time.monotonic() - spoke > _LINE_S:
                    spoke = time.monotonic()
                    report(file.tell(), expected)
            file.flush()
            os.fsync(file.fileno())
    return expected


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return a file's digest as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def unzip(archive: Path, folder: Path) -> list[str]:
    """Unpack a zip archive; a damaged or unsafe one leaves the folder as it was.

    It is unpacked and checked beside its place first; then the files are moved, replacing those of the same name.

    Returns:
        The files' names.

    Raises:
        DataError: it is damaged, or an entry is a link or leads out of `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(_SCRATCH + "*"):  # of a call that was killed
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as scratch:
        try:
            with zipfile.ZipFile(archive) as content:
                for entry in content.infolist():
                    _check_entry(entry, archive)
                names = [entry.filename for entry in content.infolist() if not entry.is_dir()]
                content.extractall(scratch)  # checks every CRC
        except (zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"damaged zip archive ({error})", where=str(archive), fix="fetch it again") from error
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / name).replace(folder / name)
    return names


def _check_entry(entry: zipfile.ZipInfo, archive: Path) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise DataError(f"entry '{entry.filename}' leads out of the folder", where=str(archive), fix="do not trust this archive")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"entry '{entry.filename}' is a link", where=str(archive), fix="do not trust this archive")
