"""Folders in Hugging Face layout: read without running their code, refused in one line where they are not whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from fgray.errors import ModelError

_UNSTATED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")  # say nothing about the arithmetic


def read_part(kind: Any, folder: Path, part: str, fix: str, **options: Any) -> Any:
    """Return ``kind.from_pretrained(folder)``, from local files only and without the folder's own code.

    Args:
        kind: one of transformers' auto classes.
        folder: what to read.
        part: what an error shall call it ("config.json").
        fix: remedy of such an error.
        **options: of ``from_pretrained``.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # missing files, broken JSON, unknown classes and unsafe pickles share no base class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"cannot read {part} ({reason[0][:160]})", where=str(folder), fix=fix) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing its own loading report: `check_fit` says what matters in one line."""
    control: Any = transformers_logging
    level, bars = control.get_verbosity(), control.is_progress_bar_enabled()
    control.set_verbosity_error()
    control.disable_progress_bar()
    try:
        yield
    finally:
        control.set_verbosity(level)
        if bars:
            control.enable_progress_bar()


def check_fit(report: Any, folder: Path, extra: bool = False) -> None:
    """Refuse weights that leave a parameter at random or, unless `extra` ones are allowed, are left over.

    Args:
        report: the loading info of ``from_pretrained``.
        folder: where the weights lie.
        extra: whether tensors of other heads may be left over.

    Raises:
        ModelError: naming the first such tensor.
    """
    fix = "check that config.json belongs to these weights"
    for name, found, wanted in sorted(report["mismatched_keys"]):
        what = f"tensor '{name}' is {list(found)} in the checkpoint and {list(wanted)} in the model"
        raise ModelError(f"the weights do not fit config.json: {what}", where=str(folder), fix=fix)
    said = {"missing_keys": "is missing"} if extra else {"missing_keys": "is missing", "unexpected_keys": "is not part of the model"}
    for key, problem in said.items():
        for name in sorted(report[key]):
            raise ModelError(f"the weights do not fit config.json: tensor '{name}' {problem}", where=str(folder), fix=fix)


def weight_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of the first pattern that has any.

    Raises:
        ModelError: there are none.
    """
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files
    raise ModelError("the folder holds no weights", where=str(folder), fix="it needs model.safetensors")


def stated(config: Any) -> Any:
    """Return a configuration without what names places and versions."""
    if isinstance(config, dict):
        return {str(key): stated(value) for key, value in config.items() if key not in _UNSTATED}
    return json.loads(json.dumps(config, default=str))
