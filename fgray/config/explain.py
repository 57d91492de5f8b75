"""Turns pydantic's errors into lines that name the key, the place in the file and the remedy."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fgray.config.schema import AnyJob
from fgray.config.source import Path, Source, dotted, plain
from fgray.errors import ConfigError, did_you_mean


def explain(error: ValidationError, source: Source, values: dict[str, Any]) -> ConfigError:
    """Return one ConfigError for the first problem, with a note for each further one."""
    problems: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        problems.setdefault(_path_in(values, details), []).append(details)
    errors = [_one_error(path, group, source, values) for path, group in problems.items()]
    for other in errors[1:]:
        errors[0].add_note(str(other))
    return errors[0]


def _path_in(values: dict[str, Any], details: ErrorDetails) -> Path:
    """Return the error's path in the file: pydantic's location without the tags of the unions it went through."""
    path: Path = ()
    value: Any = values
    location = details["loc"]
    for position, part in enumerate(location):
        if isinstance(value, dict):
            is_tag = part == value.get("job" if position == 0 else "kind") and part not in value
            absent = part not in value and details["type"] == "missing" and position == len(location) - 1
            if is_tag or (part not in value and not absent):
                continue
            path, value = (*path, part), value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = (*path, part), value[part]
    return path


def _one_error(path: Path, group: list[ErrorDetails], source: Source, values: dict[str, Any]) -> ConfigError:
    details = group[0]
    kind, context = details["type"], details.get("ctx", {})
    about = _fields(path[:-1], values).get(str(path[-1])) if path else None
    name = dotted(path)
    where = source.where(path)
    if kind == "extra_forbidden":
        return ConfigError(f"unknown key '{name}'", where=where, fix=did_you_mean(str(path[-1]), _fields(path[:-1], values)))
    if kind == "missing":
        return ConfigError(f"'{name}' is missing", where=where, fix=f"add it ({about})" if about else "add it")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        wrong = (*path, str(context["discriminator"]).strip("'"))
        known = _tags(path, values)
        if kind == "union_tag_not_found":
            return ConfigError(f"'{dotted(wrong)}' is missing", where=where, fix=f"add it; known: {', '.join(known)}")
        what = f"{dotted(wrong)}: unknown {wrong[-1]} '{source.get(wrong)}'"
        return ConfigError(what, where=source.where(wrong), fix=did_you_mean(str(context["tag"]), known))
    if kind == "value_error":
        return ConfigError(f"{name}: {context['error']}" if name else str(context["error"]), where=where, fix="see `fgray schema`")
    shown = repr(plain(source.get(path)))  # as written: a resolved variable may be a secret
    literal = next((item for item in group if item["type"] == "literal_error"), None)
    if literal is not None and len(group) == 1:
        known = [item.strip("'") for item in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return ConfigError(f"{name} cannot be {shown}", where=where, fix=did_you_mean(str(details["input"]), known))
    wanted = " or ".join(dict.fromkeys(_wanted(item) for item in group))
    return ConfigError(f"{name} must be {wanted}, not {shown}", where=where, fix=about or "mend the value")


def _wanted(details: ErrorDetails) -> str:
    if details["type"] == "literal_error":
        return str(details["ctx"]["expected"])
    if details["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a section of keys and values"
    if details["type"] == "list_type":
        return "a list"
    if details["type"] == "too_short":
        return f"at least {details['ctx']['min_length']} item long"
    text = details["msg"].removeprefix("Input should be ")
    text, _, _ = text.partition(", unable to parse")
    text, _, _ = text.partition(", got a number with a fractional part")
    return text.replace("a valid integer", "a whole number").replace("a valid string", "text (put it in quotes)")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that an annotation allows, through Annotated, unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (Annotated, Union, types.UnionType, list):
        return [model for item in typing.get_args(annotation) for model in _models(item)]
    return []


def _sections(path: Path, values: dict[str, Any]) -> list[type[BaseModel]]:
    """Return the section models that stand at a path; a union is narrowed by its tag where that is known."""
    models = _models(AnyJob)
    value: Any = values
    for part in (*path, None):
        if isinstance(value, dict):
            tag = value.get("job", value.get("kind"))
            models = [model for model in models if tag in _tag_of(model)] or models
        if part is None:
            break
        value = _child(value, part)
        if isinstance(part, str):
            models = [found for model in models if part in model.model_fields for found in _models(model.model_fields[part].annotation)]
    return models


def _fields(path: Path, values: dict[str, Any]) -> dict[str, str | None]:
    """Return the fields (and their descriptions) that the section at a path may have."""
    return {name: info.description for model in _sections(path, values) for name, info in model.model_fields.items()}


def _tag_of(model: type[BaseModel]) -> tuple[Any, ...]:
    field_info = model.model_fields.get("job", model.model_fields.get("kind"))
    return typing.get_args(field_info.annotation) if field_info else ()


def _tags(path: Path, values: dict[str, Any]) -> list[str]:
    return [tag for model in _sections(path, values) for tag in _tag_of(model)]


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None
