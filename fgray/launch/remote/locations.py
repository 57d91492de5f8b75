"""Where the files of a job lie once it runs on a cluster: on a disk that all share, beside the code, or on neither."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from fgray.benchmarks.base import BENCHMARKS
from fgray.benchmarks.pairs import FILE, FileOptions
from fgray.config import LoadedConfig
from fgray.config.loop import MINED, LoopJob
from fgray.config.places import Found, find_places, looks_like_place
from fgray.config.schema import BenchmarkConfig, NamedConfig
from fgray.config.source import dotted
from fgray.errors import ConfigError
from fgray.launch.remote.environment import refuse_credentials
from fgray.launch.remote.modules import module_files, weight_files

FOLDER = "files"  # beside the code, where uploaded data and weights lie


@dataclass
class Relocated:
    """A configuration for the cluster.

    Attributes:
        values: as written, but for places, which are those that the cluster's nodes see.
        output: the run folder, as the job will see it.
        store: likewise its result store.
        files: what must travel: path below the job's folder -> file here.
        owners: path below the job's folder -> key of the configuration that needs it.
    """

    values: dict[str, Any]
    output: str
    store: str = ""
    files: dict[PurePosixPath, Path] = field(default_factory=dict)
    owners: dict[PurePosixPath, str] = field(default_factory=dict)

    def _add(self, files: dict[PurePosixPath, Path], key: str) -> None:
        self.files.update(files)
        self.owners.update((target, key) for target in files if target not in self.owners)


def relocate(config: LoadedConfig, shared: Sequence[Path]) -> Relocated:
    """Find every local file and folder of a job and say where it lies for the cluster.

    Args:
        config: the job.
        shared: folders that this machine and every node see under the same path.

    Raises:
        ConfigError: the run folder or the store would lie on one node's disk, or something is not there to be uploaded.
    """
    result = Relocated(copy.deepcopy(config.source), config.job.output)
    result.values.pop("cluster", None)  # there, the job is where it runs
    names: dict[Path, str] = {}
    for found in find_places(config.job, _part_options):
        key = dotted(found.keys)
        refuse_credentials(found.text, key)
        if found.place.kind == "module":
            if ":" in found.text:
                result._add(module_files(found.text.partition(":")[0]), key)
                _check_weights(found.text, key, shared)
            continue
        path = None if _is_mined(config, found) else _local(found)
        if path is None:
            continue
        name, entry = _split_entry(path.name)
        path = path.with_name(name)
        if any(path.is_relative_to(folder) for folder in shared):
            where = str(path)
        elif found.place.kind == "output":
            fix = f"set {key}: s3://BUCKET/{name}, or list a folder that all nodes mount in provider.fgray.shared_folders"
            raise ConfigError(f"{key} is on this machine's disk, which the cluster's nodes do not have", where=str(path), fix=fix)
        else:
            target = PurePosixPath(FOLDER, names.setdefault(path, _free_name(name, names.values())))
            where = f"./{target}"
            result._add(dict(_files_of(path, found, target)), key)
        if found.keys == ("output",):
            result.output = where
        elif found.keys == ("store",):
            result.store = where
        _set(result.values, found, where + entry)
    result.store = result.store or getattr(config.job, "store", None) or f"{result.output.rstrip('/')}/store"
    return result


def _part_options(section: BaseModel) -> BaseModel | None:
    """Return the checked options of the benchmark or filter that a section names."""
    if isinstance(section, BenchmarkConfig):
        if section.name == FILE:
            return FileOptions.model_construct(**section.options)
        kind: Any = BENCHMARKS.get(section.name)
        built = kind(**section.options)
        return built if isinstance(built, BaseModel) else None
    if isinstance(section, NamedConfig):
        from fgray.mining.filters import FILTERS, build_filter

        return build_filter(section, "filters") if section.name in FILTERS.names() else None
    return None


def _check_weights(model: str, key: str, shared: Sequence[Path]) -> None:
    """Refuse an own encoder whose class names files that the nodes cannot see: only what a configuration names can travel.

    Raises:
        ConfigError: it does.
    """
    for name in weight_files(model):
        path = Path(name).expanduser()
        if not path.is_absolute() or not any(path.is_relative_to(folder) for folder in shared):
            fix = "name the file in options of the model, which the class is given as a keyword argument: then it travels with the job"
            raise ConfigError(f"weight_files of {model} names '{name}', which the cluster's nodes do not have", where=key, fix=fix)


def _is_mined(config: LoadedConfig, found: Found) -> bool:
    return isinstance(config.job, LoopJob) and found.text == MINED and "negatives" in found.keys


def _local(found: Found) -> Path | None:
    """Return the absolute path of what lies on this machine's disk; None for an address elsewhere or a published name."""
    text, kind = found.text, found.place.kind
    if "://" in text and not text.startswith("file://"):
        return None
    path = _absolute(text)
    if kind == "under_root":
        if text.startswith(("/", "file://")):
            return path
        if found.root is None or ("://" in found.root and not found.root.startswith("file://")):
            return None
        root = _absolute(found.root)
        path = Path(os.path.normpath(root / text))
        return None if path.is_relative_to(root) else path  # within, it travels with the root and is found under it
    if kind == "option":
        return path if path.is_file() or text.startswith("file://") or (path.is_dir() and looks_like_place(text)) else None
    if kind in ("file_or_name", "folder_or_name") and not looks_like_place(text):
        return path if (path.is_file() if kind == "file_or_name" else path.is_dir()) else None
    return path


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(Path(text.removeprefix("file://")).expanduser()))  # noqa: PTH100 - links keep their names


def _split_entry(name: str) -> tuple[str, str]:
    """Split ``classes.json#KEY`` into the file and ``#KEY``."""
    file, mark, key = name.partition("#")
    return (file, mark + key) if file.endswith(".json") else (name, "")


def _files_of(path: Path, found: Found, target: PurePosixPath) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield what must travel of a file or folder: where it will lie, and the file.

    Raises:
        ConfigError: it is not there.
    """
    if path.is_file():
        yield target, path
        if (beside := found.place.beside) is not None:
            yield target.with_name(target.stem + beside), path.with_name(path.stem + beside)
        return
    if not path.is_dir():
        fix = "correct the path; what lies on the nodes' own disks belongs below a folder of provider.fgray.shared_folders"
        raise ConfigError(f"{dotted(found.keys)} is not there", where=str(path), fix=fix)
    start = next((path / part for part in found.place.parts if (path / part).exists()), path)
    for file in [start] if start.is_file() else files_below(start):
        yield target / file.relative_to(path).as_posix(), file


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in order, through links; hidden ones, bytecode and version control stay where they are."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith(".") and not name.endswith(".pyc"))


def _free_name(name: str, taken: Any) -> str:
    """Return the name, or the first of NAME-2, NAME-3, … that nothing else has; the order of the configuration decides."""
    stem, dot, suffix = name.partition(".")
    names, number, free = set(taken), 1, name
    while free in names:
        number += 1
        free = f"{stem}-{number}{dot}{suffix}"
    return free


def _set(content: Any, found: Found, text: str) -> None:
    """Write a place where the configuration names it; what is a default there names nothing local."""
    *parents, last = found.keys
    for key in parents:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(content, list):
        content[int(last)] = text
    elif last in content:
        content[last] = text
