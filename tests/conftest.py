"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real test data: $FGRAY_DATA, else shared/data beside the project."""
    root = Path(os.environ.get("FGRAY_DATA") or PROJECT.parent / "shared" / "data")
    if not root.is_dir():
        message = f"no test data at {root}; set FGRAY_DATA"
        if os.environ.get("FGRAY_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return root
