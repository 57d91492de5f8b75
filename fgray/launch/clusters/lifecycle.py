"""Starts, stops, reaches and looks at the cluster that a file describes.

Local clusters are tested. AWS, GCP and Kubernetes go through `ray up`, `ray dashboard` and `kubectl`; no account was at hand
to try these, so they do as little as can be done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fgray.errors import ConfigError, RunError
from fgray.launch.clusters import clouds, dashboard, local_nodes
from fgray.launch.clusters.dashboard import NotUpError
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.clusters.rules import refuse_problems
from fgray.launch.clusters.state import token_file

__all__ = ["ClusterStatus", "down", "reach", "status", "token_file", "up"]

CLOUDS = (*clouds.RAY_CLOUDS, "kuberay")


@dataclass(frozen=True)
class ClusterStatus:
    """What a cluster has and what it is asked for.

    Attributes:
        name: of the cluster.
        running: whether its job server answers.
        address: of the job server, where it answered; a tunnel's address ends with the tunnel.
        problem: why it does not answer, or "".
        nodes: rows of node, type, state, resources (used/total) and idle seconds.
        demand: what is asked for and has no place yet, one line each.
    """

    name: str
    running: bool
    address: str
    problem: str
    nodes: tuple[dict[str, str], ...]
    demand: tuple[str, ...]


def up(file: ClusterFile) -> str:
    """Start a cluster, mend one that is half dead, or leave one alone that runs.

    Returns:
        what to tell the user.

    Raises:
        ConfigError: the file of a cloud has problems that `fgray cluster validate` tells.
        RunError: it does not start; the line says what is missing.
    """
    if file.options.address:
        with reach(file) as address:
            return f"the cluster '{file.name}' runs at {address}; fgray does not start it"
    if file.provider == "external":
        return f"the cluster '{file.name}' runs; its dashboard is {local_nodes.start(file)}, its token is in {token_file(file)}"
    if file.provider in CLOUDS:
        refuse_problems(file)  # doors and bills are easier to close before
        clouds.start(file)
        return f"the cluster '{file.name}' is started; `fgray cluster status {file.path}` looks at it"
    raise _unknown(file)


def down(file: ClusterFile) -> str:
    """Stop a cluster with all that runs on it, and return what to tell the user.

    Raises:
        RunError: it cannot be stopped.
    """
    if file.options.address:
        raise RunError(f"the cluster '{file.name}' was not started by fgray", where=file.path, fix="stop it where it was started")
    if file.provider == "external":
        return f"the cluster '{file.name}' " + ("is stopped" if local_nodes.stop(file) else "was not running")
    if file.provider in CLOUDS:
        clouds.stop(file)
        return f"the cluster '{file.name}' is stopped"
    raise _unknown(file)


@contextmanager
def reach(file: ClusterFile) -> Iterator[str]:
    """Yield the address of a running cluster's dashboard and job server, as this machine reaches it while the body runs.

    The process that talks to it needs ``RAY_AUTH_MODE=token`` and ``RAY_AUTH_TOKEN_PATH``, see `token_file`.

    Raises:
        NotUpError: the cluster does not run.
        RunError: it cannot be reached.
    """
    if file.options.address:
        address = file.options.address.rstrip("/")
        dashboard.get(address, "api/version", token_file(file))
        yield address
    elif file.provider == "external":
        state = local_nodes.read_state(file.name)
        if not state:
            raise NotUpError(f"the cluster '{file.name}' does not run", where=file.path, fix=f"fgray cluster up {file.path}")
        if not local_nodes.is_alive(file, state):
            raise NotUpError(f"the cluster '{file.name}' is half dead", where=file.path, fix=f"`fgray cluster up {file.path}` mends it")
        yield str(state["address"])
    elif file.provider in CLOUDS:
        with clouds.tunnel(file) as address:
            yield address
    else:
        raise _unknown(file)


def status(file: ClusterFile) -> ClusterStatus:
    """Look at a cluster: nodes, resources, demand that has no place yet. A cluster that does not answer is told, not raised."""
    try:
        with reach(file) as address:
            token = token_file(file)
            nodes = dashboard.get(address, "nodes?view=summary", token)["data"]
            text = dashboard.get(address, "api/cluster_status?format=1", token)["data"].get("clusterStatus") or ""
    except RunError as error:
        return ClusterStatus(file.name, False, "", str(error), (), ())
    used = nodes.get("nodeLogicalResources") or {}
    rows = [_row(node["raylet"], used.get(node["raylet"]["nodeId"], "")) for node in nodes["summary"] if _is_alive(node)]
    rows.sort(key=lambda row: (row["type"] != "head", row["node"]))
    return ClusterStatus(file.name, True, address, "", tuple(rows), _demand(text))


def _is_alive(node: dict[str, Any]) -> bool:
    return (node.get("raylet") or {}).get("state") == "ALIVE"


def _row(raylet: dict[str, Any], used: str) -> dict[str, str]:
    """Return one node; `used` are Ray's lines such as ``1.0/2.0 CPU``."""
    lines = [line.strip() for line in used.splitlines() if not line.strip().endswith("memory")]
    busy = any(not line.startswith(("0.0/", "0/", "0B/")) for line in lines)
    kind = "head" if raylet.get("isHeadNode") else str(raylet.get("nodeTypeName") or "worker")
    place = f"{raylet['nodeId'][:4]}…{raylet['nodeId'][-5:]} {raylet['nodeManagerAddress']}"
    return {"type": kind, "state": "busy" if busy else "idle", "resources": ", ".join(lines) or "none", "node": place}


def _demand(text: str) -> tuple[str, ...]:
    """Return what Ray's autoscaler lists as pending, from its text (a table of its own Ray does not offer)."""
    _, _, rest = text.partition("Pending Demands:")
    lines = [line.strip() for line in rest.splitlines()]
    return tuple(line for line in lines if line and not line.startswith(("(no", "-")))


def _unknown(file: ClusterFile) -> ConfigError:
    fix = "aws, gcp, kuberay, external (nodes on this machine), or provider.fgray.address for a cluster that runs"
    return ConfigError(f"fgray cannot start clusters of type '{file.provider}'", where=file.path, fix=fix)


def client_environment(file: ClusterFile) -> dict[str, str]:
    """Return the environment of a process that talks to the cluster; the token is named by its file only."""
    mine = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    return {**mine, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(file))}
