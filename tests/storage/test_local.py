"""What can go wrong on a local disk, by making it go wrong for real: each gives one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fgray.errors import StorageError
from fgray.storage import open_storage


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk(tiny_disk: Path) -> None:
    storage = open_storage(str(tiny_disk))
    storage.write_bytes("x", b"old")
    for write in (storage.write_bytes, storage.create_bytes):
        with pytest.raises(StorageError, match=r"the disk is full \[.*/disk/.*\]: free some space"):
            write("x", b"1" * (2 << 20))
    assert storage.read_bytes("x") == b"old"
    assert [path.name for path in tiny_disk.iterdir()] == ["x"]  # the half-written file is gone, its space free again
    storage.write_bytes("y", b"1" * (700 << 10))


IN_CHILD = """
import os, resource, signal, sys
from fgray.errors import FgrayError
from fgray.storage import open_storage
limit, user, action, uri = sys.argv[1:]
if limit != "-":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
if user == "nobody" and os.geteuid() == 0:
    os.setuid(65534)
storage = open_storage(uri)
try:
    if action == "read":
        storage.read_bytes("x")
    elif action == "write":
        storage.write_bytes("x", b"1" * 100_000)
    else:
        list(storage.list())
except FgrayError as error:
    print(type(error).__name__, error)
"""


def in_child(action: str, folder: Path, limit: str = "-", user: str = "-") -> str:
    """Do it in a process with a file size limit, or without root's rights."""
    result = subprocess.run([sys.executable, "-c", IN_CHILD, limit, user, action, str(folder)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_file_size_limit(tmp_path: Path) -> None:
    message = in_child("write", tmp_path, limit="50000")
    assert message.startswith(f"StorageError the file is larger than this file system or process may write [{tmp_path}/x]: raise")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["read", "write", "list"])
def test_permission_denied(action: str) -> None:
    # Not below tmp_path: other users may not pass through pytest's own folders.
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "closed"
        folder.mkdir()
        (folder / "x").write_bytes(b"1")
        folder.chmod(0o000)
        try:
            message = in_child(action, folder, user="nobody")
        finally:
            folder.chmod(0o755)
    assert message.startswith("StorageError permission denied [") and "\n" not in message


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    storage = open_storage(str(tmp_path))
    for action in (storage.read_bytes, storage.stat, lambda path: storage.write_bytes(path, b"1")):
        with pytest.raises(StorageError, match="this is a folder, not a file"):
            action("d")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    with pytest.raises(StorageError, match=r"a part of this path is a file|exists"):
        open_storage(str(tmp_path)).write_bytes("f/x", b"1")


def test_linked_folders_are_listed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "root")
    assert [info.path for info in open_storage(str(tmp_path / "root")).list()] == ["link/x"]


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("a/../b").uri == open_storage(f"file://{tmp_path}/b").uri == f"{tmp_path}/b"
    assert open_storage("s3://bucket/a/b/").uri == "s3://bucket/a/b" and not open_storage("s3://bucket").is_local
    for wrong in ("ftp://x/y", "s3://", "s3://KEY:SECRET@bucket/x", "s3://KEY:SEC/RET@bucket/x", "s3://a?secret_key=x"):
        with pytest.raises(StorageError) as caught:
            open_storage(wrong)
        assert "SECRET" not in str(caught.value) and "RET" not in str(caught.value).replace("AWS_", "")


def test_stray_files_of_killed_writers_are_not_listed(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes("x", b"1")
    (tmp_path / ".fgray-0123.tmp").write_bytes(b"half")
    assert [info.path for info in storage.list()] == ["x"]
    assert os.listdir(tmp_path) != ["x"]  # noqa: PTH208  it is there, just not ours to show


def test_half_written_files_of_killed_writers_are_found_when_old(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes("model/kind/part-1.parquet", b"whole")
    for name, age in (("old", 7200), ("new", 0)):
        file = tmp_path / "model/kind" / f".fgray-{name}.tmp"
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)
    assert [info.path for info in storage.leftovers(3600)] == ["model/kind/.fgray-old.tmp"]
    assert open_storage(str(tmp_path / "none")).leftovers(3600) == []
