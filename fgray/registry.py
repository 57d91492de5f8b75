"""One small registry: names to objects, imported when used, open to other packages' entry points."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from fgray.errors import ConfigError, did_you_mean

T = TypeVar("T")
PLUGIN_GROUP = "fgray.plugins"  # an entry point here names a module; importing it registers what it offers


class Registry(Generic[T]):
    """Names of one kind of thing ("benchmark", "model", …).

    Args:
        kind: what the entries are, as it stands in error messages.
        builtin: name -> ``"module:attribute"``, imported at first use so that listing costs nothing.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._lazy = dict(builtin or {})
        self._loaded: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds its object under ``name``; a second claim on a name is an error."""

        def add(item: T) -> T:
            if self._loaded.get(name, item) is not item:
                raise ConfigError(f"two {self.kind}s are called '{name}'", fix="rename one of them")
            self._loaded[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """Return the entry called ``name``.

        Raises:
            ConfigError: nobody has registered that name; the message suggests the closest one.
        """
        if name not in self._loaded and name in self._lazy:
            self._loaded[name] = import_object(self._lazy[name])  # type: ignore[assignment]
        if name not in self._loaded:
            load_plugins()
        if name not in self._loaded:
            raise ConfigError(f"no {self.kind} is called '{name}'", fix=did_you_mean(name, self.names()))
        return self._loaded[name]

    def names(self) -> list[str]:
        """Return every known name, those of plug-ins included, sorted."""
        load_plugins()
        return sorted({*self._lazy, *self._loaded})


def import_object(path: str) -> object:
    """Import ``"package.module:Attribute"``.

    Raises:
        ConfigError: the path is malformed, the module cannot be imported, or it has no such attribute.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon:
        raise ConfigError(f"'{path}' is not a Python path", fix="write it as package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"cannot import '{module_name}' ({error})", where=path, fix="install it or put it on PYTHONPATH") from error
    except Exception as error:  # whatever the code of the module raises
        fix = "mend the module; FGRAY_DEBUG=1 shows the traceback"
        raise ConfigError(f"importing '{module_name}' failed with {type(error).__name__}: {error}", where=path, fix=fix) from error
    if not hasattr(module, attribute):
        raise ConfigError(f"'{module_name}' has no '{attribute}'", where=path, fix=did_you_mean(attribute, vars(module)))
    return getattr(module, attribute)


_plugins_loaded = False


def load_plugins() -> None:
    """Import every module named under the ``fgray.plugins`` entry points, once."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for point in entry_points(group=PLUGIN_GROUP):
        try:
            point.load()
        except Exception as error:  # other people's code
            what = f"the plug-in '{point.name}' cannot be loaded ({type(error).__name__}: {error})"
            raise ConfigError(what, where=point.value, fix="mend or uninstall its package; FGRAY_DEBUG=1 shows the traceback") from error


def options_of(kind: type) -> list[dict[str, str]]:
    """Return option, default and meaning of everything that the constructor of a registered part takes."""
    fields = getattr(kind, "model_fields", None)
    if fields is not None:  # a pydantic model, as fgray's own parts are
        return [
            {"option": name, "default": "(needed)" if f.is_required() else _shown(f.default), "meaning": f.description or ""}
            for name, f in fields.items()
        ]
    parameters = inspect.signature(kind).parameters.values()
    return [
        {"option": p.name, "default": "(needed)" if p.default is p.empty else _shown(p.default), "meaning": ""}
        for p in parameters
        if p.kind is p.KEYWORD_ONLY or p.kind is p.POSITIONAL_OR_KEYWORD
    ]


def _shown(value: object) -> str:
    """Return a default as YAML writes it."""
    return json.dumps(value, default=str, ensure_ascii=False)
