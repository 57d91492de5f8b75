"""The public verbs on clusters, by the name of their file."""

from __future__ import annotations

from fgray.launch.clusters import lifecycle
from fgray.launch.clusters.file import load_cluster
from fgray.launch.clusters.lifecycle import ClusterStatus


def cluster_up(file: str) -> str:
    """Start the cluster that a file describes, or mend one that is half dead; return what to tell the user.

    Raises:
        RunError: it does not start.
    """
    return lifecycle.up(load_cluster(file))


def cluster_down(file: str) -> str:
    """Stop a cluster with everything that runs on it; return what to tell the user.

    Raises:
        RunError: it cannot be stopped.
    """
    return lifecycle.down(load_cluster(file))


def cluster_status(file: str) -> ClusterStatus:
    """Return a cluster's nodes, their use, and the demand that has no place yet."""
    return lifecycle.status(load_cluster(file))
