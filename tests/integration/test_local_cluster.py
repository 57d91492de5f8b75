"""A local cluster of several nodes: up, closed to others, half dead and mended, two side by side, gone without a trace."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgray.errors import ConfigError, RunError
from fgray.launch.clusters import dashboard, lifecycle, local_nodes
from fgray.launch.clusters.file import load_cluster
from fgray.launch.clusters.processes import cluster_processes
from tests.integration.clusters import LocalCluster, local_cluster, write_cluster
from tests.integration.processes import LISTEN

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same through a socket for both versions of IP

pytestmark = pytest.mark.timeout(600)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_addresses(pids: list[int]) -> set[str]:
    """Return the addresses, in the kernel's own spelling, that processes listen on."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def test_a_cluster_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with local_cluster(tmp_path, home, monkeypatch, "one") as cluster:
        file, folder = cluster.file, home / ".fgray" / "clusters" / "one"
        status = lifecycle.status(file)
        assert status.running and [row["type"] for row in status.nodes] == ["head"]  # nobody has asked for anything
        assert mode(folder) == 0o700 and mode(folder / "token") == 0o600 and mode(cluster.temp) == 0o700
        addresses = open_addresses(cluster_processes(cluster.temp))
        assert addresses and addresses <= LOOPBACK

        address = cluster.state["address"]
        assert lifecycle.up(file) == f"the cluster 'one' runs; its dashboard is {address}, its token is in {folder / 'token'}"
        with lifecycle.reach(file) as reached:
            assert reached == address

        (tmp_path / "wrong").write_text("0" * 64)
        with pytest.raises(RunError, match="the cluster refuses the token"):
            dashboard.get(address, "api/version", tmp_path / "wrong")
        with pytest.raises(RunError, match="the cluster wants a token"):
            dashboard.get(address, "api/jobs/", tmp_path / "none")
        token = (folder / "token").read_text()
        for pid in cluster_processes(cluster.temp):
            assert token not in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")

        changed = load_cluster(str(write_cluster(tmp_path, "one", workers=3)))
        with pytest.raises(RunError, match="runs with another content of its file"):
            lifecycle.up(changed)

        kill_the_head(cluster)
        assert "half dead" in lifecycle.status(file).problem
        before = cluster.temp
        lifecycle.up(file)
        assert lifecycle.status(file).running
        assert cluster_processes(before) == [] and not before.exists()
    assert not folder.exists()
    assert "does not run" in lifecycle.status(file).problem
    assert lifecycle.down(file) == "the cluster 'one' was not running"


def kill_the_head(cluster: LocalCluster) -> None:
    for pid in cluster_processes(cluster.temp):
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/gcs_server"):
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError("there is no head")


@pytest.mark.chaos
def test_two_clusters_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_cluster(tmp_path, tmp_path, monkeypatch, "one") as one, local_cluster(tmp_path, tmp_path, monkeypatch, "two") as two:
        assert lifecycle.status(one.file).running and lifecycle.status(two.file).running
        assert not set(cluster_processes(one.temp)) & set(cluster_processes(two.temp))
        lifecycle.down(one.file)
        assert lifecycle.status(two.file).running
        assert not lifecycle.status(one.file).running


def test_a_start_that_fails_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(local_nodes, "START_SECONDS", 0.5)  # Ray needs several
    file = load_cluster(str(write_cluster(tmp_path, "late")))
    with pytest.raises(RunError, match=r"the local cluster 'late' did not start \(`ray start` took more than 0 s"):
        lifecycle.up(file)
    state = local_nodes.read_state("late")
    assert cluster_processes(Path(state["temp"])) == []
    lifecycle.down(file)
    assert not Path(state["temp"]).exists()


def test_only_its_own_processes(tmp_path: Path) -> None:
    """Processes are told by what started them, not by what they are called or read."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    sleep = [sys.executable, "-c", "import subprocess, sys; print(1, flush=True); subprocess.run(['sleep', '60'])", f"{mine}/looks-like-it"]
    marked = subprocess.Popen(sleep, env={**os.environ, "FGRAY_LOCAL_CLUSTER": str(mine)}, stdout=subprocess.PIPE, start_new_session=True)
    stranger = subprocess.Popen(
        sleep, env={**os.environ, "FGRAY_LOCAL_CLUSTER": str(other)}, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert marked.stdout is not None and stranger.stdout is not None
        marked.stdout.readline(), stranger.stdout.readline()
        deadline = time.monotonic() + 30
        while len(found := cluster_processes(mine)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert marked.pid in found and stranger.pid not in found
        assert len(found) == 2  # with the child, which has the same environment
        assert os.getpid() not in found
    finally:
        for process in (marked, stranger):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_what_cannot_name_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_cluster(tmp_path, "plain")
    path.write_text(path.read_text().replace("cluster_name: plain", "cluster_name: ../../etc"))
    with pytest.raises(ConfigError, match="cannot name a cluster"):
        lifecycle.up(load_cluster(str(path)))
