"""Composed sets, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgray.synthesis.folder import composed_folder
from fgray.synthesis.layout import LAYOUTS


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default: all six subsets, 20 cases each, seed 0."""
    return Path(composed_folder(str(tmp_path_factory.mktemp("composed")), list(LAYOUTS), 20, 0).uri)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six subsets, 6 cases each, another seed."""
    return Path(composed_folder(str(tmp_path_factory.mktemp("small")), list(LAYOUTS), 6, 5).uri)
