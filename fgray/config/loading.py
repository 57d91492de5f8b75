"""From a YAML file to a checked job, with errors that name the line and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fgray.config.explain import explain
from fgray.config.jobs import AnyJob
from fgray.config.source import expand, override, parse_yaml, plain
from fgray.errors import ConfigError, FgrayError, StorageError, did_you_mean

_JOB: TypeAdapter[AnyJob] = TypeAdapter(AnyJob)


@dataclass(frozen=True)
class LoadedConfig:
    """A job and the text it came from.

    Attributes:
        job: the checked job, variables resolved. Never write it down: it may hold secrets.
        source: the values as written, ``--set`` applied, ``${…}`` unresolved; this is what run.json keeps.
        path: where the configuration was read from.
    """

    job: AnyJob
    source: dict[str, Any] = field(repr=False)
    path: str


def load_config(path: str, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a job from a YAML file.

    Args:
        path: a file, or its s3:// address.
        overrides: ``a.b=c`` assignments, as after ``--set``; values are read as YAML.

    Raises:
        ConfigError: the first problem; further ones stand in its ``__notes__``, one line each.
        StorageError: the file cannot be read.
    """
    return config_from_text(_read(path), path, overrides)


def config_from_text(text: str, name: str, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a job from YAML text; `name` stands in error messages for the file."""
    source = override(parse_yaml(text, name), overrides)
    values = expand(source)
    try:
        job = _JOB.validate_python(values)
    except ValidationError as error:
        raise explain(error, source, values, AnyJob) from None  # pydantic's own text shows resolved values
    return LoadedConfig(job, plain(source.values), name)


def _read(path: str) -> str:
    try:
        if "://" in path:
            from fgray.storage import open_storage

            folder, _, file = path.rpartition("/")
            return open_storage(folder).read_bytes(file).decode()
        return FilePath(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        beside = [str(item) for item in FilePath(path).parent.glob("*.yaml")]
        raise ConfigError(
            "the configuration file does not exist", where=path, fix=did_you_mean(path, beside) if beside else "check its path"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable("the configuration", path, error) from error


def unreadable(what: str, path: str, error: OSError | UnicodeDecodeError) -> FgrayError:
    """Return what to raise for a YAML file that is there and cannot be read."""
    if isinstance(error, IsADirectoryError):
        return ConfigError(f"{what} is a folder", where=path, fix="name one of its YAML files")
    if isinstance(error, UnicodeDecodeError):
        return ConfigError(f"{what} is not UTF-8 text", where=path, fix="save it as UTF-8")
    return StorageError(f"cannot read {what} ({error.strerror})", where=path, fix="check its permissions")
