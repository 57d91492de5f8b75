"""Which fields of a configuration name files and folders: the schema marks them, and this module finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

Keys = tuple[str | int, ...]
Kind = Literal["input", "output", "file_or_name", "folder_or_name", "option", "under_root", "module"]


@dataclass(frozen=True)
class Place:
    """Marks text that names a file or folder.

    Attributes:
        kind: what it names. input: a file or folder that is read; output: one that is written; file_or_name, folder_or_name: one that is
            read, or a published name; option: one that is read where there is such a file or folder, else any text; under_root: as input,
            relative to the benchmark's root; module: the code of a class, as package.module:Name.
        parts: of a folder, only the first of these that it has is read; empty: all of it.
        beside: the ending that replaces the file's own in the name of a second file, which belongs to it.
    """

    kind: Kind = "input"
    parts: tuple[str, ...] = ()
    beside: str | None = None


Input = Annotated[str, Place()]
Output = Annotated[str, Place("output")]
UnderRoot = Annotated[str, Place("under_root")]


_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".json")


def looks_like_place(text: str) -> bool:
    """Return whether text that may also be a published name is written as a file, folder or address is."""
    return "://" in text or text.startswith(("/", "./", "../", "~")) or text.endswith(_FILE_SUFFIXES)


@dataclass(frozen=True)
class Found:
    """A field of a checked configuration that names a place.

    Attributes:
        keys: where it stands in the configuration.
        text: its value, variables resolved.
        place: what its mark says.
        root: the folder that it is relative to, for the kind under_root.
    """

    keys: Keys
    text: str
    place: Place
    root: str | None = None


Options = Callable[[BaseModel], BaseModel | None]


def find_places(section: BaseModel, options: Options, keys: Keys = (), root: str | None = None) -> Iterator[Found]:
    """Yield every field of a section, and of the sections in it, that names a place and has a value.

    Args:
        section: the checked configuration.
        options: from a section that takes options of a registered part (a benchmark, a filter) to the checked options; None: it has none.
        keys: where the section stands.
        root: the folder of the data that a benchmark without a root of its own is read from.
    """
    root = getattr(section, "root", None) or getattr(getattr(section, "data", None), "root", None) or root
    for part in (section, options(section)):
        for name, field in type(part).model_fields.items() if part is not None else ():
            mark = next((item for item in field.metadata if isinstance(item, Place)), field.annotation)
            yield from _walk(getattr(part, name), mark, options, (*keys, name), root)


def _walk(value: Any, kind: Any, options: Options, keys: Keys, root: str | None) -> Iterator[Found]:
    if isinstance(value, BaseModel):
        yield from find_places(value, options, keys, root)
    elif isinstance(value, str):
        mark = _mark(kind)
        if mark is not None:
            yield Found(keys, value, mark, root if mark.kind == "under_root" else None)
    elif isinstance(value, Mapping | list | tuple):
        mapping = isinstance(value, Mapping)
        inner = _item_kind(kind, dict if mapping else list)
        if inner is None and (mark := _mark(kind)) is not None and mark.kind == "option":
            inner = kind  # options may be lists and mappings of any depth
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _walk(item, inner, options, (*keys, key), root)


def _mark(kind: Any) -> Place | None:
    """Return the mark of text in an annotation, that of one alternative of a union included."""
    if isinstance(kind, Place):
        return kind
    if get_origin(kind) is Annotated:
        return next((item for item in get_args(kind) if isinstance(item, Place)), None)
    if get_origin(kind) in (dict, list, tuple):
        return None
    return next((mark for argument in get_args(kind) if (mark := _mark(argument)) is not None), None)


def _item_kind(kind: Any, container: type) -> Any:
    """Return the annotation of what a list holds, or a mapping's values; None where it says nothing."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _item_kind(arguments[0], container)
    if origin is container or (container is list and origin is tuple):
        return arguments[-1] if container is dict else arguments[0]
    if origin in (dict, list, tuple):
        return None
    return next((found for argument in arguments if (found := _item_kind(argument, container)) is not None), None)
