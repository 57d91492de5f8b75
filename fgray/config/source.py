"""The text of a configuration: YAML with line numbers, command-line overrides, environment variables."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from fgray.errors import ConfigError

Path = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MAX_NODES = 100_000  # aliases of aliases grow exponentially; no configuration is this large


@dataclass
class Source:
    """A configuration as written: plain values, and where each of them stands.

    Attributes:
        values: the mapping, variables unresolved.
        name: path or URI of the file.
        places: path of a value -> ``file:line``, or the ``--set`` that gave it.
    """

    values: dict[str, Any]
    name: str
    places: dict[Path, str] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """Return the place of a value, or of the nearest section around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)

    def get(self, path: Path) -> Any:
        """Return the value at a path as written, or None where there is none."""
        value: Any = self.values
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def dotted(path: Path) -> str:
    """Return a path as users write it: ``benchmarks.0.name``."""
    return ".".join(str(part) for part in path)


def parse_yaml(text: str, name: str) -> Source:
    """Read a YAML mapping, remembering the line of every key.

    Raises:
        ConfigError: not YAML, not a mapping, a key twice in one section, or a key that is not text.
    """
    source = Source({}, name)
    loader = yaml.SafeLoader(text)
    count = 0

    def build(node: yaml.Node, path: Path) -> Any:
        nonlocal count
        count += 1
        if count > _MAX_NODES:
            raise ConfigError("the configuration repeats itself without end", where=name, fix="use fewer YAML aliases")
        source.places.setdefault(path, f"{name}:{node.start_mark.line + 1}")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            raise ConfigError(f"the tag '{node.tag}' is not allowed", where=source.places[path], fix="remove it")
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicates(node, name)
            loader.flatten_mapping(node)  # resolves `<<: *anchor`
            section = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node)
                place = f"{name}:{key_node.start_mark.line + 1}"
                if not isinstance(key, str):
                    raise ConfigError(f"the key {key!r} is not text", where=place, fix="put it in quotes")
                source.places[*path, key] = place
                section[key] = build(value_node, (*path, key))
            return section
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*path, index)) for index, item in enumerate(node.value)]
        return _scalar(node, loader)

    try:
        root = loader.get_single_node()
        values = build(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not valid YAML: {error.problem}", where=f"{name}:{line}", fix="mend the syntax") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=name, fix="mend the syntax") from error
    except RecursionError as error:
        raise ConfigError("the configuration contains itself", where=name, fix="remove the circular YAML alias") from error
    except ValueError as error:  # a timestamp such as 2026-13-45
        raise ConfigError(f"not valid YAML: {error}", where=name, fix="put the value in quotes") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError("a configuration is a mapping of keys to values", where=name, fix="start with `job: eval`")
    source.values = values
    return source


class _Quoted(str):
    """Text that stood in quotes: a variable in it stays text whatever it looks like."""


def _scalar(node: yaml.Node, loader: yaml.SafeLoader) -> Any:
    value = loader.construct_object(node)
    quoted = isinstance(value, str) and isinstance(node, yaml.ScalarNode) and node.style is not None
    return _Quoted(value) if quoted and _VARIABLE.search(value) else value


def _refuse_duplicates(node: yaml.MappingNode, name: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ConfigError(
                f"duplicate key '{key.value}'", where=f"{name}:{line}", fix=f"it also stands on line {lines[key.value]}; keep one"
            )
        lines[key.value] = line


def override(source: Source, assignments: Sequence[str]) -> Source:
    """Return a copy with ``a.b=c`` assignments applied; values are read as YAML, list items by their number.

    Raises:
        ConfigError: no ``=``, a value that is not YAML, or a path through something that is no section.
    """
    result = Source(copy.deepcopy(source.values), source.name, dict(source.places))
    for assignment in assignments:
        keys, equals, text = assignment.partition("=")
        place = f"--set {assignment}"
        if not equals or not keys or "" in keys.split("."):
            raise ConfigError(f"cannot read the override '{assignment}'", where=place, fix="write it as --set a.b=value")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError("the value is not valid YAML", where=place, fix="put it in quotes") from error
        _assign(result, keys.split("."), value, place)
    return result


def _assign(source: Source, keys: list[str], value: Any, place: str) -> None:
    parent: Any = source.values
    path: Path = ()
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        index: Any = key
        if isinstance(parent, list):
            if not key.isdecimal() or int(key) > len(parent):
                raise ConfigError(
                    f"{dotted(path)} has no item '{key}'", where=place, fix=f"its items are numbered from 0 to {len(parent) - 1}"
                )
            index = int(key)
            if index == len(parent):
                parent.append(None)  # one past the end appends
        elif not isinstance(parent, dict):
            raise ConfigError(f"{dotted(path)} is {parent!r}, not a section", where=place, fix="set the whole value instead")
        path = (*path, index)
        if last:
            parent[index] = value
            source.places = {known: spot for known, spot in source.places.items() if known[: len(path)] != path}
            source.places[path] = place
            return
        child = parent.get(index) if isinstance(parent, dict) else parent[index]
        if child is None:
            child = {}
        elif isinstance(child, str) and path[:1] == ("benchmarks",) and len(path) == 2:
            child = {"name": child}  # a bare benchmark name is short for that
        parent[index] = child
        source.places.setdefault(path, place)
        parent = child


def expand(source: Source, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the values with every ``${NAME}`` and ``${NAME:default}`` resolved.

    A plain value that is nothing but one variable is read as YAML (``limit: ${LIMIT:20}`` is a number); in quotes
    it stays text.

    Raises:
        ConfigError: a variable without default is not set.
    """
    environ = os.environ if environ is None else environ

    def resolve(text: str, path: Path) -> Any:
        def value_of(match: re.Match[str]) -> str:
            name, default = match.groups()
            found = environ.get(name, default)
            if found is None:
                fix = f"export it, or write ${{{name}:default}}"
                raise ConfigError(f"the environment variable {name} is not set", where=source.where(path), fix=fix)
            return found

        expanded = _VARIABLE.sub(value_of, text)
        if isinstance(text, _Quoted) or not _VARIABLE.fullmatch(text):
            return expanded
        try:
            value = yaml.safe_load(expanded)
        except (yaml.YAMLError, ValueError):
            return expanded
        return value if value is None or isinstance(value, (bool, int, float)) else expanded

    def walk(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, str):
            return resolve(value, path) if _VARIABLE.search(value) else str(value)
        return value

    values: dict[str, Any] = walk(source.values, ())
    return values


def plain(value: Any) -> Any:
    """Return the value in types that JSON knows (dates become text); `to_yaml` writes it as it was read."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def variables(value: Any) -> set[tuple[str, str | None]]:
    """Return the variables in a configuration as written: name and default."""
    if isinstance(value, dict | list):
        return {found for item in (value.values() if isinstance(value, dict) else value) for found in variables(item)}
    return {(match[1], match[2]) for match in _VARIABLE.finditer(value)} if isinstance(value, str) else set()


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return a configuration as YAML that reads as the values do: variables unresolved, and text where they stood in quotes."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Quoted, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style='"'))
