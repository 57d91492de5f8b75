"""Fixtures that all tests share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

PROJECT = Path(__file__).resolve().parents[1]

os.environ.setdefault("RAY_worker_niceness", "0")  # else a test's workers wait for the other process's tests

settings.register_profile("unhurried", deadline=None)  # how long an example takes says what else the machine does
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def own_calibration(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the rates that tests measure out of the plans of whoever runs them."""
    os.environ["FGRAY_CALIBRATION"] = str(tmp_path_factory.mktemp("calibration") / "calibration.json")


@pytest.fixture(scope="module", autouse=True)
def no_ray_left() -> Iterator[None]:
    """End a Ray that a module started in this process: its servers would take a tenth of a core from all tests to come."""
    yield
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        sys.modules["ray"].shutdown()


@pytest.fixture
def warned() -> Iterator[Callable[[str], list[str]]]:
    """Returns a list that gets what a module logs from then on.

    pytest's own capture hangs on the root logger, which libraries rearrange.
    """
    hung: list[tuple[logging.Logger, logging.Handler]] = []

    def listen(module: str) -> list[str]:
        heard: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: heard.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
        logger = logging.getLogger(module)
        logger.addHandler(handler)
        hung.append((logger, handler))
        return heard

    yield listen
    for logger, handler in hung:
        logger.removeHandler(handler)


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
