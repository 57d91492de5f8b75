"""What travels with a job, how much that may be, and what it is told of it."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from fgray.errors import ConfigError
from fgray.launch.remote.locations import Relocated
from fgray.launch.remote.send import package_of
from fgray.launch.remote.upload import Upload, gather

PROJECT = Path(__file__).resolve().parents[3]


def moved(files: dict[str, Path] | None = None, key: str = "data.root") -> Relocated:
    result = Relocated({}, "s3://b/o")
    for name, file in (files or {}).items():
        result.files[PurePosixPath(name)] = file
        result.owners[PurePosixPath(name)] = key
    return result


def test_code_script_configuration_and_pins_travel_and_nothing_else() -> None:
    upload = gather("eval", moved(), "job: eval\n", "ray==1\n")
    names = set(map(str, upload.files))
    assert {"fgray/__init__.py", "fgray/cli.py", "jobs/eval.py", "config.yaml", "fgray-pins.txt"} <= names
    assert {"fgray/report/templates/page.css", "fgray/synthesis/bank/bank.json"} <= names
    assert {name.split("/")[0] for name in names} == {"fgray", "jobs", "config.yaml", "fgray-pins.txt", "fgray-0.1.0.dist-info"}
    assert [name for name in names if name.startswith("jobs/")] == ["jobs/eval.py"]
    assert not [
        name for name in names if "__pycache__" in name or name.endswith(".pyc") or "/." in name or "test" in name.split("/")[-1][:5]
    ]
    assert upload.files[PurePosixPath("config.yaml")] == b"job: eval\n"


def test_the_ten_largest_files_and_the_sum_are_told(tmp_path: Path) -> None:
    files = {}
    for number in range(12):
        files[f"files/{number}"] = tmp_path / str(number)
        files[f"files/{number}"].write_bytes(b"x" * 1024 * (number + 1))
    lines = list(Upload({PurePosixPath(name): file for name, file in files.items()}, {}).check(1 << 20, "c.yaml"))
    assert lines[0] == "uploads 78.0 KiB in 12 files; the largest:"
    assert [line.split() for line in lines[1:]] == [[f"{n + 1}.0", "KiB", f"files/{n}"] for n in range(11, 1, -1)]


def test_more_than_may_travel_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (2 << 20))
    upload = gather("eval", moved({"files/large": tmp_path / "large"}, "model.weights"), "", "")
    with pytest.raises(ConfigError) as error:
        list(upload.check(1 << 20, "cluster.yaml"))
    assert "model.weights is 2.0 MiB of it" in str(error.value)
    assert "s3://BUCKET" in str(error.value) and "upload_mib" in str(error.value) and "cluster.yaml" in str(error.value)


def test_a_module_may_not_hide_what_travels_with_every_job(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("")
    with pytest.raises(ConfigError, match="jobs/own.py"):
        gather("eval", moved({"jobs/own.py": tmp_path / "m.py"}, "model.path"), "", "")


def test_the_same_content_is_the_same_package(tmp_path: Path) -> None:
    def build(text: str) -> tuple[str, bytes]:
        (tmp_path / "a.txt").write_text(text)
        return package_of(Upload({PurePosixPath("files/a.txt"): tmp_path / "a.txt", PurePosixPath("b"): b"1"}, {}))

    name, package = build("one")
    assert build("one") == (name, package)
    assert build("two")[0] != name
    (tmp_path / "p.zip").write_bytes(package)
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert {item: archive.read(item) for item in archive.namelist()} == {"files/a.txt": b"one", "b": b"1"}


def test_an_installed_wheel_has_the_scripts_of_all_jobs() -> None:
    import tomllib

    build: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"jobs": "fgray/_jobs"}
