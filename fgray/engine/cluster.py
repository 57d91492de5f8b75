"""Whether this process is part of a job on a cluster, and what that cluster can have at most."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fgray.errors import RunError

VARIABLE = "FGRAY_CLUSTER"


class Nodes(NamedTuple):
    """Nodes of one shape, the head among them.

    Attributes:
        resources: of one node.
        least: nodes that always run.
        most: nodes that work may count on.
    """

    resources: Mapping[str, float]
    least: int
    most: int


@dataclass(frozen=True)
class Cluster:
    """The cluster that a job was submitted to. What it has now says little: nodes come when work asks for them.

    Attributes:
        name: as in its file.
        most: resource -> the most that all nodes together can ever have.
        largest: resource -> the most that one node can have; empty where that was not told.
        provider: of the machines, as in its file; "" where that was not told.
        nodes: its shapes of nodes; empty where that was not told.
        max_nodes: the most nodes of all shapes together.
        file: what its file says of kinds of nodes and prices, for plans; empty where that was not told.
    """

    name: str
    most: Mapping[str, float]
    largest: Mapping[str, float]
    provider: str = ""
    nodes: tuple[Nodes, ...] = ()
    max_nodes: int = 0
    file: Mapping[str, Any] = field(default_factory=dict)


def cluster() -> Cluster | None:
    """Return the cluster that this process works for, by ``FGRAY_CLUSTER``, which `fgray submit` sets; None on a machine of its own.

    Raises:
        RunError: the variable is set to something else.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        content = json.loads(text)
        most, largest = _amounts(content["most"]), _amounts(content.get("largest", {}))
        nodes = tuple(Nodes(_amounts(one["resources"]), int(one["least"]), int(one["most"])) for one in content.get("nodes", ()))
        file, provider = dict(content.get("file", {})), str(content.get("provider", ""))
        return Cluster(str(content["name"]), most, largest, provider, nodes, int(content.get("max_nodes", 0)), file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError("the variable does not describe a cluster", where=VARIABLE, fix="leave it to `fgray submit --cluster`") from error


def _amounts(content: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(amount) for name, amount in content.items()}
