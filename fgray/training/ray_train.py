"""The workers of a training run on Ray Train: places them, starts them again after failures and preemptions."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Set
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from fgray.config.train import TrainClipJob
from fgray.engine.cluster import cluster
from fgray.engine.notices import watch
from fgray.engine.ray_session import check_placeable, start_ray
from fgray.errors import FgrayError, NotFound, RunError, StorageError
from fgray.runs import RunFolder
from fgray.storage import open_storage
from fgray.training.worker import train_worker

FAILURE = "failure.json"  # an error that another attempt would meet again, for the driver and for the workers' next start
NEWS_SECONDS = 30.0  # in which Ray notices that a node is gone
_WORK = "ray"  # Ray Train's own folder; checkpoints are ours and lie elsewhere
_HOSTS = "hosts"  # an empty file for every node that had workers on it since they were started last


def train_on_ray(job: TrainClipJob, device: str) -> None:
    """Run the workers to the end.

    A worker that dies takes its group along; the group starts again from the newest checkpoint, ``compute.max_failures`` times, and as
    often as machines are preempted or nodes with workers on them are lost. With ``compute.min_workers`` a smaller group goes on meanwhile.

    Raises:
        FgrayError: what a worker raised.
        RunError: workers died too often, or there is no place for them.
    """
    compute = job.compute
    folder = RunFolder(job.output)
    folder.storage.delete(FAILURE)
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    if cluster() is not None and compute.min_workers is None:  # a machine in the cloud needs minutes to come up; else fewer go on soon
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")
    start_ray(compute.workers * compute.threads)
    gpus = 1.0 if device.startswith("cuda") else 0.0
    check_placeable("CPU", float(compute.workers * compute.threads), float(compute.threads))
    check_placeable("GPU", compute.workers * gpus, gpus)
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    workers: Any = compute.workers if compute.min_workers is None else (compute.min_workers, compute.workers)
    gpu = gpus > 0
    resources = {"CPU": float(compute.threads)} | ({"GPU": 1.0} if gpu else {})
    failures = 0
    lost: set[str] = set()  # nodes whose loss is accounted for
    try:
        while True:
            _forget_hosts(folder)
            trainer = TorchTrainer(
                _worker,
                train_loop_config={"job": job.model_dump(mode="json"), "device": device},
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
                run_config=RunConfig(
                    name=uuid.uuid4().hex,  # Ray would resume a name that it knows; what is resumed from is ours to say
                    # We count failures: Ray takes a node that vanished without notice for one of the workers. It restarts by itself
                    # after preemptions, without end.
                    failure_config=FailureConfig(max_failures=0),
                    **_place(folder),
                ),
            )
            try:
                trainer.fit()
                return
            except Exception as error:  # Ray's own types differ by what died
                if (known := _failure(folder)) is not None:
                    raise known from error
                if gone := _lost_hosts(folder, lost):
                    lost |= gone
                    continue
                failures += 1
                if failures > compute.max_failures:
                    raise RunError(
                        f"the workers died too often ({_first_line(error)})",
                        where=folder.uri,
                        fix="run the same command again to go on from the last checkpoint; compute.max_failures allows more",
                    ) from error
    finally:
        with contextlib.suppress(FgrayError):  # a store that stays away must not hide why the run ended
            _clean(folder)


def _lost_hosts(folder: RunFolder, known: Set[str]) -> set[str]:
    """Return the nodes that had workers on them and are lost or leave, but for those that are known.

    A node that is cut off is noticed after a while, so with more than one node this waits for the news.
    """
    deadline = time.monotonic() + NEWS_SECONDS
    while True:
        hosts = {info.path.rpartition("/")[2] for info in folder.storage.list(_HOSTS)} - known
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        alive = {node["NodeID"] for node in nodes if node["Alive"]} - set(ray._private.state.state.get_draining_nodes())
        gone = hosts - alive
        if gone or len(nodes) < 2 or time.monotonic() > deadline:
            return gone
        time.sleep(1.0)


def _forget_hosts(folder: RunFolder) -> None:
    for info in list(folder.storage.list(_HOSTS)):
        folder.storage.delete(info.path)


def _clean(folder: RunFolder) -> None:
    """Remove Ray Train's own files and the list of nodes."""
    for name in (_WORK, _HOSTS):
        if folder.storage.is_local:
            shutil.rmtree(Path(folder.uri) / name, ignore_errors=True)
            continue
        for info in list(folder.storage.list(name)):
            folder.storage.delete(info.path)


def _place(folder: RunFolder) -> dict[str, Any]:
    """Return where Ray Train keeps its own few files: every node must reach it."""
    if folder.storage.is_local:
        return {"storage_path": str(Path(folder.uri) / _WORK)}
    from fgray.storage.s3 import connect

    return {"storage_path": f"{folder.uri.removeprefix('s3://')}/{_WORK}", "storage_filesystem": connect()}


def _worker(config: dict[str, Any]) -> None:
    job = TrainClipJob.model_validate(config["job"])
    RunFolder(job.output).storage.write_bytes(f"{_HOSTS}/{ray.get_runtime_context().get_node_id()}", b"")
    watch()
    _attempt(job, config["device"])


def _attempt(job: TrainClipJob, device: str) -> None:
    """Train, and leave an error that another attempt would meet again for the driver and for the next attempt."""
    folder = RunFolder(job.output)
    if (failure := _failure(folder)) is not None:
        raise failure
    try:
        train_worker(job, device, lambda: ray.train.get_preemption_info() is not None)
    except FgrayError as error:
        if not isinstance(error, StorageError):  # a store may answer again
            content = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
            folder.storage.write_bytes(FAILURE, json.dumps(content).encode())
        raise


def _failure(folder: RunFolder) -> FgrayError | None:
    """Return the error that a worker left."""
    import fgray.errors

    try:
        content = json.loads(open_storage(folder.uri).read_bytes(FAILURE))
    except NotFound:
        return None
    # A kind that is defined elsewhere travels as its base class: the line is what matters.
    kind: type[FgrayError] = getattr(fgray.errors, content["kind"], FgrayError)
    return kind(content["what"], where=content["where"], fix=content["fix"])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
