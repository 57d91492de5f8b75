"""Imports go one way, and Ray stays where it belongs. Imports inside functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "fgray"

# Each layer may import the layers above it in this list, and itself.
LAYERS = [
    ("errors",),
    ("registry",),
    ("storage",),
    ("config",),
    ("data", "models", "metrics", "losses"),
    ("runs",),
    ("engine",),
    ("embedding",),
    ("synthesis",),
    ("benchmarks",),
    ("report",),
    ("evaluation", "mining", "text_negatives"),
    ("training",),
    ("loop",),
    ("bench",),
    ("launch",),
    ("listings",),
    ("verbs",),
    ("cli_output",),
    ("cli_cluster", "cli_jobs"),
    ("cli",),
    ("__main__",),
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
RAY_AT_HOME = ("engine", "launch", "training")

FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """Return the layer member a file belongs to: `config` for fgray/config/schema.py, `cli` for fgray/cli.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (absolute module, line) of every import, wherever it stands, but for type checkers' own."""
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import with the full name"
            names = (f"{node.module}.{alias.name}" for alias in node.names) if node.module == "fgray" else (node.module or "",)
            yield from ((name, node.lineno) for name in names)


def wrong_imports(text: str, own: str) -> list[str]:
    """Return the imports in a module of the part `own` that go against the order."""
    found = []
    for module, line in imported(ast.parse(text)):
        names = module.split(".")
        if names[0] == "fgray" and len(names) > 1 and names[1] in RANK:
            one_way = names[1] == own or RANK[names[1]] < RANK[own]
            if not one_way:
                found.append(f"line {line}: {own} imports {module}")
        if names[0] == "ray" and own not in RAY_AT_HOME:
            found.append(f"line {line}: {own} imports ray")
    return found


def test_every_part_has_its_layer() -> None:
    assert {part(path) for path in FILES} - {"__init__"} <= set(RANK)


@pytest.mark.parametrize("path", [path for path in FILES if part(path) != "__init__"], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert wrong_imports(path.read_text(), part(path)) == []


@pytest.mark.parametrize(
    ("text", "own", "count"),
    [
        ("from fgray.engine.store import ResultStore", "metrics", 1),
        ("def f():\n    import fgray.report.html", "benchmarks", 1),
        ("from fgray import verbs", "engine", 1),
        ("from fgray.models.base import ModelCard", "data", 1),
        ("import ray", "evaluation", 1),
        ("def f():\n    from ray.data import Dataset", "data", 1),
        ("import ray\nfrom fgray.errors import FgrayError\nfrom fgray.storage import open_storage", "engine", 0),
        ("if TYPE_CHECKING:\n    from fgray.report.html import x", "metrics", 0),
        ("import rayleigh", "metrics", 0),
    ],
)
def test_the_check_itself(text: str, own: str, count: int) -> None:
    assert len(wrong_imports(text, own)) == count


def test_jobs_are_short() -> None:
    jobs = sorted((PROJECT / "jobs").glob("*.py"))
    assert jobs
    assert [path.name for path in jobs if len(path.read_text().splitlines()) >= 40] == []


def test_modules_are_small() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
