"""Starts Ray inside this process: quiet, on loopback only, with its token readable for nobody else."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants

from fgray.engine.stages import Stage
from fgray.errors import RunError


def start_ray(cpus: float) -> None:
    """Join the Ray that this process already has, else start one inside it (never a stranger's cluster).

    Args:
        cpus: logical CPUs that the work will ask for. Work that wants more than there are would wait for ever without a word.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what a user needs to know comes through receipts
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
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)  # the console; Ray's own log files keep everything


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
        RunError: they want more CPUs or GPUs than there are.
    """
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, need in (("CPU", sum(s.workers * s.cpus for s in stages)), ("GPU", sum(s.workers * s.gpus for s in stages))):
        if need > have.get(name, 0):
            raise RunError(
                f"the stages want {need:g} {name}s, Ray has {have.get(name, 0):g}", fix="lower compute.workers or compute.decode_workers"
            )
