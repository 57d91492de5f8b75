"""Sends a job to where it runs: this process, or the cluster that a file describes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgray.config import load_config
from fgray.errors import RunError
from fgray.launch.local import plan_job, run_local

if TYPE_CHECKING:
    from fgray.launch.remote.jobs import RemoteJob

LOCAL = "local"


def submit(
    path: str, overrides: Sequence[str] = (), *, output: str | None = None, cluster: str | None = None, dry_run: bool = False
) -> Any:
    """Check a configuration and run its job where it says.

    Args:
        path: the YAML file.
        overrides: ``a.b=c`` assignments.
        output: run folder in place of the configuration's.
        cluster: "local", or a cluster file, in place of the configuration's.
        dry_run: stop after the plan.

    Returns:
        the plan of a dry run; else the job's result or, on a cluster, the `RemoteJob` that was sent.

    Raises:
        FgrayError: whatever is wrong with the configuration or stops the job.
    """
    given = {"output": output, "cluster": cluster}
    # JSON keeps it text in YAML.
    assignments = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None)]
    config = load_config(path, assignments)
    if dry_run:
        return plan_job(config)
    if config.job.cluster == LOCAL:
        return run_local(config)
    from fgray.launch.clusters.file import load_cluster
    from fgray.launch.remote.send import send

    return send(config, assignments, load_cluster(config.job.cluster), _say)


@contextlib.contextmanager
def _found_from(folder: str) -> Iterator[None]:
    """Let modules beside a configuration be found where its job was sent from, not where this command is typed."""
    before = list(sys.path)
    here = str(Path.cwd())
    sys.path[:] = [*(place for place in before if place not in ("", here)), folder]
    try:
        yield
    finally:
        sys.path[:] = before


def resume(job: str | None = None) -> RemoteJob:
    """Send a job again that was sent from here; it goes on with its run folder.

    Args:
        job: its id; None: the newest.

    Raises:
        ConfigError: there is no such job.
        RunError: it has not ended.
    """
    from fgray.launch.clusters.file import load_cluster
    from fgray.launch.remote.jobs import remote_job
    from fgray.launch.remote.send import send

    found = remote_job(job)
    record = found.record
    assert record is not None
    if found.goes_on():
        fix = f"follow it with fgray logs -f {found.id}, or stop it first"
        raise RunError(f"the job '{found.id}' has not ended", where=found.cluster.path, fix=fix)
    with contextlib.chdir(record.folder), _found_from(record.folder):
        return send(load_config(record.config, record.overrides), record.overrides, load_cluster(record.cluster), _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
