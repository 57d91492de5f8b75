"""Class names and prompt templates of zero-shot classification."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fgray.benchmarks.files import parse_json, read_bytes, resolve, sha256_hex, text_lines
from fgray.errors import ConfigError, DataError
from fgray.storage import Storage, open_storage

DEFAULT_TEMPLATES = ("a photo of a {c}.",)


def read_list(storage: Storage, location: str, what: str) -> list[str] | dict[str, str]:
    """Read class names or templates from a file.

    Args:
        storage: the benchmark's root; `location` is relative to it unless it is a URI or an absolute path.
        location: a ``.json`` file (a list, or a mapping of folder to class name) or a text file with one entry a line;
            ``FILE#KEY`` takes one entry of a JSON object, as CLIP_benchmark's files need.
        what: "class names" or "templates", for messages.

    Raises:
        DataError: there is no such file, it lacks the key, or it holds something else.
    """
    path, _, key = location.partition("#")
    folder, _, name = path.rpartition("/")
    source = resolve(storage, folder) if folder else (open_storage("/") if path.startswith("/") else storage)
    data = read_bytes(source, name, f"file of {what}")
    where = f"{source.uri}/{name}"
    if not name.endswith(".json"):
        return text_lines(data, where)
    content: Any = parse_json(data, where)
    if key:
        if not isinstance(content, dict) or key not in content:
            raise DataError(f"no entry '{key}'", where=where, fix=f"write {path}#KEY with a key of that file")
        content = content[key]
    texts = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"expected {what}: a list of texts",
            where=location,
            fix="name one entry of the file as FILE#KEY" if not key else "correct the file",
        )
    return content  # type: ignore[no-any-return]


def prompt_texts(names: Sequence[str], templates: Sequence[str]) -> dict[str, list[str]]:
    """Return class name -> its prompts; a template marks the name's place by ``{c}`` or ``{}``.

    The classifier of a class is the normalised mean of its prompts' normalised embeddings (Radford et al. 2021, section 3.1.4).

    Raises:
        ConfigError: a template has no place for the name.
    """
    for template in templates:
        if "{c}" not in template and "{}" not in template:
            raise ConfigError(f"template '{template}' has no place for the class name", where="templates", fix="write {c} where it belongs")
    return {name: [template.replace("{c}", name).replace("{}", name) for template in templates] for name in names}


def name_classes(labels: Sequence[str], classes: Sequence[str] | Mapping[str, str] | None, where: str) -> tuple[list[str], dict[str, int]]:
    """Match class folders with class names.

    Args:
        labels: the folders (or names in file names) that occur, in any order.
        classes: a list in the folders' alphabetical order, a mapping folder -> name (its order is the class order), or
            None for the folders' own names with "_" as a blank.
        where: for messages.

    Returns:
        The class names in class order, and folder -> position.

    Raises:
        DataError: the list has another length, or the mapping lacks a folder.
    """
    folders = sorted(set(labels))
    if isinstance(classes, Mapping):
        unnamed = [folder for folder in folders if folder not in classes]
        if unnamed:
            raise DataError(f"class folder '{unnamed[0]}' has no name in classes", where=where, fix="add it to classes")
        return list(classes.values()), {folder: number for number, folder in enumerate(classes)}
    names = [folder.replace("_", " ") for folder in folders] if classes is None else list(classes)
    if len(names) != len(folders):
        raise DataError(f"{len(names)} class names for {len(folders)} class folders", where=where, fix="give classes as {folder: name}")
    return names, {folder: number for number, folder in enumerate(folders)}


def prompts_hash(names: Sequence[str], templates: Sequence[str]) -> str:
    """Return a digest of class names and templates: a published accuracy holds for one choice of both."""
    return sha256_hex(json.dumps([list(names), list(templates)], ensure_ascii=False).encode())
