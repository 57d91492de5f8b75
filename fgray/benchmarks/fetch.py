"""Official downloads: what to fetch for each benchmark, and how it is checked."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fgray.benchmarks.download import download, file_digest, unzip
from fgray.benchmarks.retrieval import SOURCES
from fgray.benchmarks.sugarcrepe import SugarCrepe
from fgray.errors import ConfigError, DataError, StorageError, did_you_mean
from fgray.storage.local import local_error

RECEIPT = "fetched.json"
_PARTS = ".fgray-download"


@dataclass(frozen=True)
class Remote:
    """One file to fetch.

    Attributes:
        path: where it goes, under the destination; a zip archive is unpacked there and removed.
        url: its official address, or None for a file on the Hugging Face hub.
        repo: data set on the hub (then `path` is the file's name there).
        size: bytes, where known.
        checksum: "sha256:…" or "md5:…", where known. None: only the size is checked, for a hub file also the sha256 that the
            hub itself states.
    """

    path: str
    url: str | None = None
    repo: str | None = None
    size: int | None = None
    checksum: str | None = None


_COCO = "http://images.cocodataset.org/zips"
_VAL2017 = Remote(
    "val2017.zip",
    f"{_COCO}/val2017.zip",
    size=815_585_330,
    checksum="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
)
REMOTES: dict[str, tuple[Remote, ...]] = {
    # The repository gives no checksum of its archive.
    "spec": (Remote("data.zip", repo="wjpoom/SPEC", size=1_555_390_680),),
    "sugarcrepe": (
        *(
            Remote(f"data/{name}", f"https://raw.githubusercontent.com/RAIVNLab/sugar-crepe/main/data/{name}", checksum=f"sha256:{digest}")
            for name, digest in SugarCrepe.info.official_hashes.items()
        ),
        _VAL2017,
    ),
    "retrieval/coco_karpathy": (
        Remote(
            "coco_karpathy_test.json",
            "https://storage.googleapis.com/sfr-vision-language-research/datasets/coco_karpathy_test.json",
            size=1_735_468,
            checksum="sha256:" + SOURCES["coco_karpathy"].hashes["coco_karpathy_test.json"],
        ),
        Remote("val2014.zip", f"{_COCO}/val2014.zip", checksum="md5:a3d79f5ed8d289b7a7554ce06a5782b3"),
    ),
}


def fetch_benchmark(
    name: str,
    dst: str,
    *,
    base_url: str | None = None,
    remotes: tuple[Remote, ...] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, object]]:
    """Download a benchmark's official files, check and unpack them; a second call continues or does nothing.

    Args:
        name: "spec", "sugarcrepe" or "retrieval/coco_karpathy".
        dst: local folder; it is made.
        base_url: a mirror that replaces scheme and host of the official addresses; the hub also honours ``HF_ENDPOINT``.
        remotes: other files than the official ones, e.g. a pinned copy.
        report: called with one line per step.

    Returns:
        What ``fetched.json`` in `dst` says: per file its path, origin, bytes, sha256, and how it was checked.

    Raises:
        ConfigError: nothing is known to fetch under that name, or `dst` is not a local folder.
        DataError: a checksum or size is wrong, or an archive is unsafe.
        StorageError: a server cannot be reached, or `dst` cannot be written.
    """
    if remotes is None:
        if name not in REMOTES:
            raise ConfigError(
                f"nothing to fetch for '{name}'", fix=did_you_mean(name, REMOTES) + " (other data must be asked from its owners)"
            )
        remotes = REMOTES[name]
    if "://" in dst:
        raise ConfigError(
            "fetch writes to local folders only", where=dst, fix="fetch to a local folder, then `fgray import` it to the prefix"
        )
    if base_url is not None and not re.match(r"https?://[^/]", base_url):
        raise ConfigError(f"'{base_url}' is no address of a server", where="mirror", fix="write it like https://mirror.example.org")
    try:
        return _fetch_all(remotes, Path(dst), base_url, report)
    except OSError as error:
        raise local_error(error, error.filename or dst) from error


def _fetch_all(remotes: tuple[Remote, ...], folder: Path, base_url: str | None, report: Callable[[str], None]) -> list[dict[str, object]]:
    folder.mkdir(parents=True, exist_ok=True)
    receipts = _read_receipts(folder / RECEIPT)
    for remote in remotes:
        if remote.path in receipts and (remote.path.endswith(".zip") or (folder / remote.path).exists()):
            report(f"{remote.path}: already here")
            continue
        receipts[remote.path] = _fetch(remote, folder, base_url, report)
        pending = folder / (RECEIPT + ".tmp")
        pending.write_text(json.dumps(list(receipts.values()), indent=1) + "\n")
        pending.replace(folder / RECEIPT)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return list(receipts.values())


def _read_receipts(path: Path) -> dict[str, dict[str, object]]:
    if not path.exists():
        return {}
    try:
        return {entry["path"]: entry for entry in json.loads(path.read_bytes())}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("not a list of what was fetched", where=str(path), fix="delete it and fetch again") from error


def _fetch(remote: Remote, folder: Path, base_url: str | None, report: Callable[[str], None]) -> dict[str, object]:
    parts = folder / _PARTS
    if remote.repo is not None:
        file, origin, stated = _from_hub(remote, parts, base_url)
    else:
        assert remote.url is not None
        origin = remote.url if base_url is None else base_url.rstrip("/") + urlsplit(remote.url).path
        file, stated = download(origin, parts / remote.path, size=remote.size, report=report), None
    checked = _check(remote, file, origin, stated)
    receipt: dict[str, object] = {
        "path": remote.path,
        "origin": origin,
        "bytes": file.stat().st_size,
        "sha256": file_digest(file),
        "checked": checked,
    }
    if remote.path.endswith(".zip"):
        names = unzip(file, (folder / remote.path).parent)
        file.unlink()
        report(f"{remote.path}: {len(names)} files unpacked, checked by {checked}")
    else:
        target = folder / remote.path
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
        report(f"{remote.path}: checked by {checked}")
    return receipt


def _check(remote: Remote, file: Path, origin: str, stated: str | None) -> str:
    """Return how the file was checked; a wrong one is removed, so that the next call starts afresh."""
    size = file.stat().st_size
    if remote.size is not None and size != remote.size:
        file.unlink()
        raise DataError(
            f"{size} bytes instead of {remote.size}", where=origin, fix="fetch again; if it stays, upstream has changed the file"
        )
    checksum = remote.checksum or (f"sha256:{stated}" if stated else None)
    if checksum is None:
        return "size only (upstream gives no checksum)" if remote.size is not None else "nothing (upstream gives no checksum)"
    algorithm, _, expected = checksum.partition(":")
    found = file_digest(file, algorithm)
    if found != expected:
        file.unlink()
        raise DataError(
            f"{algorithm} is {found}, not {expected}", where=origin, fix="fetch again; if it stays, upstream has changed the file"
        )
    return f"{algorithm}{' stated by the hub' if remote.checksum is None else ''}"


def _from_hub(remote: Remote, parts: Path, base_url: str | None) -> tuple[Path, str, str | None]:
    """Download through huggingface_hub, which resumes; return file, address, and the sha256 that the hub states (large files)."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    assert remote.repo is not None
    endpoint = (base_url or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = hf_hub_url(remote.repo, remote.path, repo_type="dataset", endpoint=endpoint)
    try:
        etag = get_hf_file_metadata(url, endpoint=endpoint).etag or ""
        file = Path(hf_hub_download(remote.repo, remote.path, repo_type="dataset", local_dir=parts, endpoint=endpoint))
    except Exception as error:  # the class of a transport error depends on the hub library's version
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(
            f"cannot download ({reason})", where=url, fix="check the network, then run the same command again: it resumes"
        ) from error
    return file, url, etag if re.fullmatch("[0-9a-f]{64}", etag) else None
