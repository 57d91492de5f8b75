"""The code of an own encoder travels with what it imports from beside it, and installed packages stay."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fgray.errors import ConfigError
from fgray.launch.remote.modules import module_files, weight_files


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "own_enc.py": "import numpy\nimport json\nfrom own_parts import tower\nfrom fgray.models import Preprocess\n",
        "own_parts/__init__.py": "",
        "own_parts/tower.py": "from . import text\nfrom .deep.layer import Layer\nimport own_helper",
        "own_parts/text.py": "",
        "own_parts/unused.py": "",
        "own_parts/deep/__init__.py": "",
        "own_parts/deep/layer.py": "class Layer: pass",
        "own_helper.py": "import own_enc",
        "own_other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_a_module_and_what_it_imports_from_beside_it(code: Path) -> None:
    found = module_files("own_enc")
    assert {str(path): file for path, file in found.items()} == {
        name: code / name
        for name in (
            "own_enc.py", "own_helper.py", "own_parts/__init__.py", "own_parts/deep/__init__.py",
            "own_parts/deep/layer.py", "own_parts/text.py", "own_parts/tower.py",
        )
    }  # fmt: skip


def test_a_module_in_a_package(code: Path) -> None:
    names = {"own_parts/__init__.py", "own_parts/deep/__init__.py", "own_parts/deep/layer.py"}
    assert set(map(str, module_files("own_parts.deep.layer"))) == names


def test_installed_modules_do_not_travel() -> None:
    assert module_files("yaml") == {}


def test_a_module_that_is_nowhere(code: Path) -> None:
    with pytest.raises(ConfigError, match="cannot find the module 'own_gone'"):
        module_files("own_gone")
    (code / "own_broken.py").write_text("def")
    with pytest.raises(ConfigError, match="cannot read the module"):
        module_files("own_broken")


def test_packages_that_are_installed_elsewhere_are_not_imported(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = code / "site-packages" / "own_installed"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('no such device')")
    (code / "own_broken_package").mkdir()
    (code / "own_broken_package" / "__init__.py").write_text("raise RuntimeError('no such device')")
    (code / "own_user.py").write_text("from own_installed import nn\nfrom own_broken_package import part\n")
    monkeypatch.syspath_prepend(str(code / "site-packages"))
    assert set(map(str, module_files("own_user"))) == {"own_user.py", "own_broken_package/__init__.py"}


def test_weight_files_of_a_class(code: Path) -> None:
    (code / "own_heavy.py").write_text("class A:\n    weight_files = ('~/a.pt', 'b.pt')\nclass B:\n    weight_files = found()\n")
    assert [weight_files(f"own_heavy:{name}") for name in "ABC"] == [["~/a.pt", "b.pt"], [], []]
