"""Joins the Ray of the cluster that a job runs on, or starts one inside this process: quiet, on loopback, with a token of its own."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import ray
from ray._private import ray_constants

from fgray.engine.cluster import VARIABLE, Cluster, cluster
from fgray.engine.stages import Stage
from fgray.errors import RunError


def start_ray(cpus: float) -> None:
    """Join the Ray that this process already has, or that of the cluster that it works for; else start one inside it.

    A stranger's cluster is never joined.

    Args:
        cpus: logical CPUs that the work will ask for of a Ray of its own. Work that wants more than there are would wait for ever
            without a word.

    Raises:
        RunError: the cluster cannot be joined.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what a user needs to know comes through receipts
    if (mine := cluster()) is not None:
        _join(mine)
    else:
        _start(cpus)
    import_module("ray.data")  # reads its settings from the environment when it is imported, and brings handlers for its logs

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)  # the console; Ray's own log files keep everything


def _join(mine: Cluster) -> None:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        what = f"{VARIABLE} names the cluster '{mine.name}', RAY_ADDRESS does not say where it is"
        raise RunError(what, fix="start the job with `fgray submit --cluster FILE`, or unset the first")
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")  # the autoscaler's remarks on every node
    # Demand is the workers that wait for a place. Ray Data's own requests would hold nodes that have nothing left to do.
    os.environ.setdefault("RAY_DATA_CLUSTER_AUTOSCALER", "V2")
    os.environ.setdefault("RAY_DATA_CLUSTER_SCALING_UP_UTIL_THRESHOLD", "1e9")
    try:
        with _no_stderr(), _own_sigterm():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunError(
            f"the cluster '{mine.name}' cannot be joined ({reason})", where=address, fix="`fgray cluster status FILE`"
        ) from error


def _start(cpus: float) -> None:
    with _no_stderr(), _loopback(), _own_sigterm():
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, math.ceil(cpus) + 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    token = Path.home() / ".ray" / "auth_token"  # Ray writes it readable for everybody
    if token.exists():
        token.chmod(0o600)


@contextmanager
def _loopback() -> Iterator[None]:
    """Keep every port of the Ray that starts in the body on 127.0.0.1; by itself Ray listens on all interfaces.

    Ray knows this only as the absence of clusters on Windows and macOS, where it spares users a firewall's question.
    """
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # for Ray's own processes; this one has read it when Ray was imported
    before, constant = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which Ray replaces by one that ends in an abort and a dump."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Silence the native code's greeting on file descriptor 2; what goes wrong in the body comes as an exception."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def check_resources(stages: Sequence[Stage]) -> None:
    """Refuse stages that Ray could never place: it would wait for ever without a word.

    Raises:
        RunError: they want more CPUs or GPUs than there are, or than the cluster can ever have.
    """
    for name, each in (("CPU", [(s, s.cpus) for s in stages]), ("GPU", [(s, s.gpus) for s in stages])):
        check_placeable(name, sum(s.workers * amount for s, amount in each), max(amount for _, amount in each))


def check_placeable(resource: str, total: float, largest: float) -> None:
    """Refuse a need for a resource that can never be met.

    Args:
        resource: "CPU" or "GPU".
        total: of all workers together.
        largest: of one worker.

    Raises:
        RunError: there is not so much of it.
    """
    mine = cluster()
    have: Mapping[str, float] = ray.cluster_resources() if mine is None else mine.most  # type: ignore[no-untyped-call]
    owner = "Ray has" if mine is None else f"the cluster '{mine.name}' can have"
    fix = "lower compute.workers or compute.decode_workers" + ("" if mine is None else ", or raise max_workers in the cluster file")
    if total > have.get(resource, 0):
        raise RunError(f"the workers want {total:g} {resource}s, {owner} {have.get(resource, 0):g}", fix=fix)
    if mine is not None and largest > mine.largest.get(resource, largest):
        what = f"one worker wants {largest:g} {resource}s, no node of the cluster '{mine.name}' has more than {mine.largest[resource]:g}"
        raise RunError(what, fix="lower compute.threads")
