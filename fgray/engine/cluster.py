"""Whether this process is part of a job on a cluster, and what that cluster can have at most."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from fgray.errors import RunError

VARIABLE = "FGRAY_CLUSTER"


@dataclass(frozen=True)
class Cluster:
    """The cluster that a job was submitted to. What it has now says little: nodes come when work asks for them.

    Attributes:
        name: as in its file.
        most: resource -> the most that all nodes together can ever have.
        largest: resource -> the most that one node can have; empty where that was not told.
        provider: of the machines, as in its file; "" where that was not told.
    """

    name: str
    most: Mapping[str, float]
    largest: Mapping[str, float]
    provider: str = ""


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
        most = {str(name): float(amount) for name, amount in content["most"].items()}
        largest = {str(name): float(amount) for name, amount in content.get("largest", {}).items()}
        return Cluster(str(content["name"]), most, largest, str(content.get("provider", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError("the variable does not describe a cluster", where=VARIABLE, fix="leave it to `fgray submit --cluster`") from error
