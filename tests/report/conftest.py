"""One run folder and its report for all tests of the reports, and a headless browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from fgray.report.html import write_report
from fgray.runs import RunFolder
from tests.report.sample_run import write_sample_run

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def load_image(data_root: Path) -> Callable[[str, str], bytes]:
    """Image keys of the sample run are paths below the data root."""
    return lambda benchmark, key: (data_root / key).read_bytes()


@pytest.fixture(scope="session")
def run_folder(data_root: Path, load_image: Callable[[str, str], bytes], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with two benchmarks, hostile captions, and its report."""
    folder = write_sample_run(data_root, tmp_path_factory.mktemp("report") / "run")
    write_report(folder, load_image)
    return folder


@pytest.fixture(scope="session")
def page(run_folder: RunFolder) -> str:
    """The report as text."""
    return run_folder.storage.read_bytes("report.html").decode()


@pytest.fixture(scope="session")
def soup(page: str) -> BeautifulSoup:
    """The report as a browser's parser would see it."""
    return BeautifulSoup(page, "html.parser")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium; the tests that need one are skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        message = "no Chromium here: apt-get install chromium"
        if os.environ.get("FGRAY_REQUIRE_CHROMIUM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Playwright starts its browsers with a fresh profile folder each.
        started = playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        yield started
        started.close()
