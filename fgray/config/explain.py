"""Turns pydantic's errors into lines that name the key, the place in the file and the remedy."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fgray.config.source import Path, Source, dotted, plain
from fgray.errors import ConfigError, did_you_mean


def explain(error: ValidationError, source: Source, values: Mapping[str, Any], schema: Any) -> ConfigError:
    """Return one ConfigError for the first problem, with a note for each further one.

    Args:
        error: what pydantic found in `values`.
        source: the values as written; only these are shown, because a resolved variable may be a secret.
        values: the values that were validated.
        schema: the model, or the union of models, that they were validated against.
    """
    explainer = _Explainer(source, values, _models(schema))
    problems: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        problems.setdefault(explainer.path(details), []).append(details)
    errors = [explainer.problem(path, group) for path, group in problems.items()]
    for other in errors[1:]:
        errors[0].add_note(str(other))
    return errors[0]


@dataclass
class _Explainer:
    source: Source
    values: Mapping[str, Any]
    roots: list[type[BaseModel]]

    def path(self, details: ErrorDetails) -> Path:
        """Return the path in the file: pydantic's location without the tags of the unions that it went through."""
        path: Path = ()
        value: Any = self.values
        location = details["loc"]
        for position, part in enumerate(location):
            if isinstance(value, Mapping):
                absent = details["type"] == "missing" and position == len(location) - 1
                if part not in value and not absent:
                    continue  # a tag: "eval", "open_clip"
                path, value = (*path, part), value.get(str(part))
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                path, value = (*path, part), value[part]
        return path

    def problem(self, path: Path, group: list[ErrorDetails]) -> ConfigError:
        """Return the error for all that pydantic says of one value (one line for each branch of a union)."""
        details = group[0]
        kind, context = details["type"], details.get("ctx", {})
        name, where = dotted(path), self.source.where(path)
        about = self._fields(path[:-1]).get(str(path[-1])) if path else None
        if kind == "extra_forbidden":
            return ConfigError(f"unknown key '{name}'", where=where, fix=did_you_mean(str(path[-1]), self._fields(path[:-1])))
        if kind == "missing":
            return ConfigError(f"'{name}' is missing", where=where, fix=f"add it ({about})" if about else "add it")
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            wrong = (*path, str(context["discriminator"]).strip("'"))
            known = [tag for model in self._sections(path) for tag in _tags(model)]
            if kind == "union_tag_not_found":
                return ConfigError(f"'{dotted(wrong)}' is missing", where=where, fix=f"add it; known: {', '.join(known)}")
            what = f"{dotted(wrong)}: unknown {wrong[-1]} '{self.source.get(wrong)}'"
            return ConfigError(what, where=self.source.where(wrong), fix=did_you_mean(str(context["tag"]), known))
        if kind == "value_error":
            return ConfigError(f"{name}: {context['error']}" if name else str(context["error"]), where=where, fix=about or "mend the value")
        shown = repr(plain(self.source.get(path)))
        if kind == "literal_error" and len(group) == 1:
            known = [item.strip("'") for item in str(context["expected"]).replace(" or ", ", ").split(", ")]
            return ConfigError(f"{name} cannot be {shown}", where=where, fix=did_you_mean(str(details["input"]), known))
        wanted = " or ".join(dict.fromkeys(_wanted(item) for item in group))
        return ConfigError(f"{name} must be {wanted}, not {shown}", where=where, fix=about or "mend the value")

    def _fields(self, path: Path) -> dict[str, str | None]:
        """Return the fields (and their descriptions) that the section at a path may have."""
        return {name: info.description for model in self._sections(path) for name, info in model.model_fields.items()}

    def _sections(self, path: Path) -> list[type[BaseModel]]:
        """Return the models that may stand at a path; a union is narrowed by its tag where that is known."""
        models, value, keyed = _narrowed(self.roots, self.values), self.values, False
        for part in path:
            if keyed:  # a name of the user's own choice: what stands under it was found with the mapping
                keyed = False
            elif isinstance(part, str):
                annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
                models = [found for annotation in annotations for found in _models(annotation)]
                keyed = any(typing.get_origin(annotation) is dict for annotation in annotations)
            value = _child(value, part)
            models = _narrowed(models, value)
        return models


def _narrowed(models: list[type[BaseModel]], value: Any) -> list[type[BaseModel]]:
    tag = value.get("job", value.get("kind")) if isinstance(value, Mapping) else None
    return [model for model in models if tag in _tags(model)] or models


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation allows, through Annotated, unions, lists and mappings of free keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (Annotated, Union, types.UnionType, list, dict):
        return [model for item in typing.get_args(annotation) for model in _models(item)]
    return []


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    info = model.model_fields.get("job", model.model_fields.get("kind"))
    return typing.get_args(info.annotation) if info else ()


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


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
