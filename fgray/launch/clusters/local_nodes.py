"""A cluster of several Ray nodes on this machine: a head with Ray's job server, and workers that come and go with demand.

Ray brings a provider that starts nodes as processes beside the head. Everything listens on 127.0.0.1, every cluster has
ports, a token and a folder of its own, so clusters of different names run side by side.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fgray.errors import RunError
from fgray.launch.clusters import dashboard
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.clusters.processes import MARK, cluster_processes, kill_cluster
from fgray.launch.clusters.state import make_state_folder, state_folder, token_file, write_private

START_SECONDS = 300.0  # a head needs 10 s on an idle machine, minutes on one that is busy
ANSWER_SECONDS = 60.0  # until a job server whose head runs counts as dead: what is then started anew ends the jobs of the old one
LONGEST_TEMP = 38  # characters: Ray puts sockets below it, whose paths have at most 107
RAYS_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
OUR_PROVIDER = "fgray.launch.clusters.local_provider.LocalNodeProvider"  # the same with a mend; cluster files name Ray's
HEAD_ID = "f" * 51 + "00000"  # the provider's own name for the head
HEAD_TYPE = "ray.head.default"  # the same
OBJECT_STORE = 256 << 20  # bytes of a node's object store where the file names none; Ray would take a third of the memory for each

# Sections that Ray's autoscaler expects, though this provider needs none of them.
_EMPTY = {
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


def start(file: ClusterFile) -> str:
    """Start a local cluster, or return the address of the one that runs; what is left of a broken one is removed first.

    Returns:
        the http address of its job server.

    Raises:
        RunError: it runs with another content of the file, or Ray does not start.
    """
    folder = make_state_folder(file.name)
    with _alone(folder):
        state = read_state(file.name)
        if state and is_alive(file, state):
            if state["file"] != _digest(file):
                fix = f"fgray cluster down {file.path}, then up again"
                raise RunError(f"the cluster '{file.name}' runs with another content of its file", where=file.path, fix=fix)
            return str(state["address"])
        _remove(folder, state)
        token = token_file(file)
        if not token.exists():
            write_private(token, secrets.token_hex(32))
        for attempt in range(2):  # Ray sometimes does not find its own head just after another's end
            address = _try_start(file, folder, last=attempt == 1)
            if address is not None:
                return address
    raise AssertionError("unreachable")


def stop(file: ClusterFile) -> bool:
    """Kill every process of a local cluster and remove its folders; return whether there was anything."""
    folder = state_folder(file.name)
    if not folder.exists():
        return False
    with _alone(folder):
        was_there = _remove(folder, read_state(file.name))
        token_file(file).unlink(missing_ok=True)
    with suppress(OSError):
        (folder / "lock").unlink()
        folder.rmdir()
    return was_there


def read_state(name: str) -> dict[str, Any]:
    """Return what was noted when a cluster was started, {} where none was."""
    try:
        state: dict[str, Any] = json.loads((state_folder(name) / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return state


def is_alive(file: ClusterFile, state: Mapping[str, Any]) -> bool:
    """Return whether the head's own processes run and its job server answers; on a busy machine that takes its time.

    Raises:
        TokenError: it answers, and refuses this token.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while _head_runs(Path(state["temp"])):
        if dashboard.answers(state["address"], token_file(file)):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return False


def _head_runs(temp: Path) -> bool:
    """Return whether both the control store and the head's raylet live: without either the cluster is of no use."""
    titles = []
    for pid in cluster_processes(temp):
        with suppress(OSError):
            titles.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return any(b"/gcs_server" in title for title in titles) and any(b"/raylet" in t and HEAD_ID.encode() in t for t in titles)


def _try_start(file: ClusterFile, folder: Path, last: bool) -> str | None:
    temp = _short_folder(folder)
    gcs, http, client = free_ports(3)
    address = f"http://127.0.0.1:{http}"
    state = {"temp": str(temp), "address": address, "gcs": f"127.0.0.1:{gcs}", "file": _digest(file), "since": time.time()}
    write_private(folder / "state.json", json.dumps(state))  # before the start: a killed `up` leaves nothing that `down` cannot find
    config = folder / "autoscaling.json"
    write_private(config, json.dumps(_autoscaling(file, gcs)))
    head = {"CPU": 0.0, "GPU": 0.0, "object_store_memory": float(OBJECT_STORE)} | dict(file.head.resources)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={gcs}", f"--temp-dir={temp / 'ray'}"]
    command += [f"--num-cpus={head.pop('CPU'):.0f}", f"--num-gpus={head.pop('GPU'):.0f}"]
    command += [f"--object-store-memory={head.pop('object_store_memory'):.0f}"]
    command += [f"--memory={head.pop('memory'):.0f}"] if "memory" in head else []
    command += [f"--resources={json.dumps(head)}"] if head else []
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={http}", "--dashboard-agent-listen-port=0"]
    command += [f"--ray-client-server-port={client}", f"--autoscaling-config={config}", "--disable-usage-stats"]
    log = folder / "start.log"
    deadline = time.monotonic() + START_SECONDS
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command,
                env=_environment(temp, token_file(file)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=START_SECONDS,
            )
            failure = f"`ray start` ended with {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired:
            failure = f"`ray start` took more than {START_SECONDS:.0f} s"
    while failure is None:
        if dashboard.answers(address, token_file(file)):
            return address
        if time.monotonic() > deadline or not _head_runs(temp):
            failure = "the head does not answer"
        time.sleep(0.3)
    if last:
        told = _last_line(log)
        kill_cluster(temp)
        fix = f"see {log} and {temp}/ray/session_latest/logs; `fgray cluster up {file.path}` tries again"
        raise RunError(f"the local cluster '{file.name}' did not start ({failure}{told})", where=file.path, fix=fix)
    _remove(folder, state)
    return None


def _autoscaling(file: ClusterFile, gcs_port: int) -> dict[str, Any]:
    """Return the file's content as Ray's autoscaler wants it for this start."""
    content = {**_EMPTY, "upscaling_speed": 1.0, **file.content}
    nodes = {HEAD_TYPE if name == file.head.name else name: dict(node) for name, node in content["available_node_types"].items()}
    for name, node in nodes.items():
        node["resources"] = {"object_store_memory": OBJECT_STORE, **(node.get("resources") or {})}
        node.setdefault("node_config", {})
        node["max_workers"] = 0 if name == HEAD_TYPE else node.get("max_workers", file.max_workers)
    provider = {key: value for key, value in content["provider"].items() if key != "fgray"}
    provider["module"] = {RAYS_PROVIDER: OUR_PROVIDER}.get(provider["module"], provider["module"])
    provider |= {"gcs_address": f"127.0.0.1:{gcs_port}", "head_node_id": HEAD_ID, "launch_multiple": True}
    return {**content, "provider": provider, "available_node_types": nodes, "head_node_type": HEAD_TYPE, "max_workers": file.max_workers}


def _environment(temp: Path, token: Path) -> dict[str, str]:
    """Return the environment of the cluster's processes; the token is named by its file only."""
    mine = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "FGRAY_CLUSTER")}
    return {
        **mine,
        MARK: str(temp),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), mine.get("PATH", os.defpath)]),  # a job's `python` is this one
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's own switch that keeps its ports on 127.0.0.1
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_NODE_TYPE_NAME": HEAD_TYPE,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_START_TIMEOUT_SECONDS": "3600",  # a job that installs gigabytes of packages waits longer than Ray's quarter of an hour
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",  # it imports much; Ray's own minute is short on a busy machine
        "RAY_BACKEND_LOG_LEVEL": os.environ.get("RAY_BACKEND_LOG_LEVEL", "fatal"),
    }


def _remove(folder: Path, state: Mapping[str, Any]) -> bool:
    """Kill what is left of a cluster and remove its session; return whether there was one."""
    if not state:
        return False
    temp = Path(state["temp"])
    for _ in range(3):  # what is being killed may still write
        kill_cluster(temp)
        shutil.rmtree(temp, ignore_errors=True)
        if not temp.exists():
            break
    for name in ("state.json", "autoscaling.json", "start.log"):
        (folder / name).unlink(missing_ok=True)
    return True


def _short_folder(folder: Path) -> Path:
    """Return a new folder for the session that nobody else can enter; its path must be short (Ray itself opens it for everybody)."""
    place = tempfile.gettempdir()
    room = LONGEST_TEMP - len("/fgray-12345678/ray")
    return Path(tempfile.mkdtemp(prefix="fgray-", dir=place if len(place) <= room else "/tmp"))


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time start or stop a cluster."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(file: ClusterFile) -> str:
    return hashlib.sha256(json.dumps(file.content, sort_keys=True).encode()).hexdigest()[:16]


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
