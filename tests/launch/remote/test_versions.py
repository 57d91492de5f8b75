"""Versions here and on the cluster: what is pinned, what is refused, what is only told."""

from __future__ import annotations

import platform
from importlib.metadata import version

import pytest

from fgray.errors import RunError
from fgray.launch.remote.pins import check_installed, check_runtime, pinned, to_install, to_requirements

HERE = platform.python_version()
MINOR = ".".join(HERE.split(".")[:2])


def test_the_closure_is_pinned_as_it_is_installed() -> None:
    pins = pinned()
    for name in ("ray", "torch", "open-clip-torch", "numpy", "pillow", "pyarrow", "jinja2", "markupsafe"):  # the last by way of jinja2
        assert pins[name] == version(name)
    assert not {"fgray", "pytest", "mypy", "hypothesis"} & set(pins)
    assert check_installed(to_requirements(pins)) == []


def test_ray_is_not_installed_over_the_clusters_own() -> None:
    assert to_install({"ray": "2.60.0", "torch": "2.15.0+cu132"}) == ["torch==2.15.0"]


def test_other_versions_that_change_numbers_are_refused_and_others_told() -> None:
    with pytest.raises(RunError, match=r"numpy .* here, 1\.0 where .*dependencies: install"):
        check_installed("numpy==1.0\n")
    with pytest.raises(RunError, match="torch"):
        check_installed("torch==0.1\ntyper==0.0.1\n")
    (note,) = check_installed(f"typer==0.0.1\nnumpy=={version('numpy')}\n")
    assert note.startswith("typer ") and "0.0.1 where the job was sent" in note
    assert check_installed("no-such-package==1\n") == ["no-such-package none here, 1 where the job was sent"]
    (note,) = check_installed(f"numpy=={version('numpy')}+other\n")  # the same release, built otherwise
    assert note.startswith("numpy ")


def test_another_ray_or_python_is_refused_in_one_line() -> None:
    check_runtime(version("ray"), HERE, "c.yaml")
    check_runtime(version("ray"), f"{MINOR}.99", "c.yaml")
    with pytest.raises(RunError, match=r"the cluster runs Ray 2\.1\.0, this machine has .*ray==2\.1\.0"):
        check_runtime("2.1.0", HERE, "c.yaml")
    with pytest.raises(RunError, match=r"the cluster runs Python 3\.2\.1"):
        check_runtime(version("ray"), "3.2.1", "c.yaml")
