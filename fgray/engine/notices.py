"""Turns a cloud's notice that it takes this machine away into a drain of its Ray node: nothing new goes there, training saves its state.

Ray itself does not ask the clouds. Kubernetes needs none of this: a pod that is to go gets SIGTERM, which Ray answers with a drain.

Sources:
    AWS: "Spot Instance interruption notices" and IMDSv2 in the EC2 user guide; the notice comes two minutes ahead. [mem]
    GCP: "Preemption process" and ``instance/preempted`` in Compute Engine's reference; the notice comes 30 seconds ahead. [mem]
    Neither was tried on a real spot machine.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import ray

from fgray.engine.cluster import cluster

POLL_SECONDS = 5.0  # AWS asks for this much
GCP_SECONDS = 30.0
_TIMEOUT = 2.0  # the service is on the machine itself
_TOKEN_SECONDS = 21600
_open = build_opener(ProxyHandler({})).open  # a proxy would ask about its own machine
_lock = threading.Lock()
_watching = False


def watch() -> None:
    """Watch for this machine's notice from now on, in a thread; nothing happens but on a cluster of AWS or GCP, or a second time."""
    global _watching
    mine = cluster()
    look = {"aws": aws_notice, "gcp": gcp_notice}.get(mine.provider) if mine is not None else None
    with _lock:
        if look is None or _watching:
            return
        _watching = True
    context = ray.get_runtime_context()
    threading.Thread(target=_wait, args=(look, context.gcs_address, context.get_node_id()), daemon=True, name="notices").start()


def _wait(look: Callable[[], float | None], address: str, node: str) -> None:
    while True:
        try:
            end = look()
            if end is not None:
                drain(address, node, end)
                return
        except (OSError, HTTPException, ValueError, LookupError, TypeError, ray.exceptions.RayError):
            pass  # the machine's service or Ray's control store was busy, or said something else than documented: ask again
        time.sleep(POLL_SECONDS)


def aws_notice() -> float | None:
    """Return when AWS takes this spot machine, in seconds since 1970; None while it does not.

    Raises:
        OSError, ValueError: the machine's metadata service does not answer, or not as documented.
    """
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/") + "/latest"
    put = Request(f"{base}/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)})
    with _open(put, timeout=_TIMEOUT) as answer:
        token = answer.read().decode()
    try:
        with _open(
            Request(f"{base}/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}), timeout=_TIMEOUT
        ) as answer:
            notice = json.loads(answer.read())
    except HTTPError as error:
        if error.code == 404:
            return None
        raise
    return datetime.fromisoformat(notice["time"]).timestamp()


def gcp_notice() -> float | None:
    """Return when GCP takes this spot machine, in seconds since 1970; None while it does not.

    Raises:
        OSError: the machine's metadata service does not answer.
    """
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    ask = Request(f"http://{host}/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"})
    with _open(ask, timeout=_TIMEOUT) as answer:
        return time.time() + GCP_SECONDS if answer.read().strip() == b"TRUE" else None


def drain(address: str, node: str, end: float) -> None:
    """Tell Ray that a node goes.

    Args:
        address: of the control store.
        node: its id.
        end: when, in seconds since 1970.

    Raises:
        RayError: the control store does not answer.
    """
    from ray.core.generated import autoscaler_pb2  # what `ray drain-node` uses; Ray has no public function for it

    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
    store = ray._raylet.GcsClient(address=address)  # type: ignore[attr-defined]
    store.drain_node(node, reason, "the cloud takes this machine", int(end * 1000))
