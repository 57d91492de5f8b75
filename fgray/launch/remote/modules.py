"""The code of an own encoder: its module, and what that imports from beside it."""

from __future__ import annotations

import ast
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath

from fgray.errors import ConfigError


def module_files(name: str) -> dict[PurePosixPath, Path]:
    """Return the files of a module and of what it imports, by where they lie below the folder that Python finds them in.

    Installed packages, the standard library and fgray are left out: the cluster has its own.

    Args:
        name: dotted name of the module.

    Raises:
        ConfigError: there is no such module, or it cannot be read.
    """
    found: dict[PurePosixPath, Path] = {}
    queue, seen = [name], set()
    while queue:
        current = queue.pop()
        if current in seen or not _may_be_own(current.partition(".")[0]):
            continue
        seen.add(current)
        path = _own_file(current, needed=current == name)
        if path is None:
            continue
        parents = [".".join(current.split(".")[:depth]) for depth in range(1, current.count(".") + 1)]
        queue += parents  # importing a module runs the __init__.py of its packages
        package = path.name == "__init__.py"
        found[PurePosixPath(*current.split("."), "__init__.py") if package else PurePosixPath(*current.split(".")).with_suffix(".py")] = (
            path
        )
        queue += _imports(path, current if package else current.rpartition(".")[0])
    return dict(sorted(found.items()))


def _may_be_own(package: str) -> bool:
    """Return whether a top-level name is neither fgray, nor the standard library's, nor installed; it is not imported for that."""
    if package == "fgray" or package in sys.stdlib_module_names:
        return False
    spec = _find(package)
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    return not any(_is_installed(Path(place)) for place in places if place)


def _find(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except Exception:  # looking for a module runs the __init__.py of its packages, which may fail in any way
        return None


def _own_file(name: str, needed: bool) -> Path | None:
    """Return the source file of a module that is the user's own, else None."""
    spec = _find(name)
    if spec is None and needed:
        raise ConfigError(
            f"cannot find the module '{name}'", where="model.path", fix="type the command where it lies, or put it on PYTHONPATH"
        )
    if spec is None or not spec.has_location or spec.origin is None or not spec.origin.endswith(".py"):
        return None  # a name that was imported from a module, a namespace package, the standard library's own, or compiled
    path = Path(spec.origin).resolve()
    return None if _is_installed(path) else path


def _is_installed(path: Path) -> bool:
    path = path.resolve()
    folders = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed = [Path(folder).resolve() for folder in (*folders, *site.getsitepackages(), site.getusersitepackages())]
    # The two names: where PYTHONPATH brings packages that were installed elsewhere.
    return any(path.is_relative_to(folder) for folder in installed) or bool({"site-packages", "dist-packages"} & set(path.parts))


def weight_files(path: str) -> list[str]:
    """Return what the class of an own encoder names as its ``weight_files``, read from its source; [] where that is computed.

    Args:
        path: package.module:Class.
    """
    module, _, name = path.partition(":")
    file = _own_file(module, needed=True)
    for node in ast.walk(ast.parse(file.read_bytes())) if file is not None else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            for line in node.body:
                if isinstance(line, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "weight_files" for to in line.targets):
                    try:
                        return [str(item) for item in ast.literal_eval(line.value)]
                    except (ValueError, TypeError):
                        return []
    return []


def _imports(path: Path, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError) as error:
        raise ConfigError(f"cannot read the module ({error})", where=str(path), fix="mend it") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)  # may be modules, too
