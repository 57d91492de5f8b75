"""Sends a job to where it runs. A new kind of cluster is one more entry of `_LAUNCHERS`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from fgray.config import LoadedConfig, load_config
from fgray.errors import ConfigError
from fgray.launch.local import plan_job, run_local

_LAUNCHERS: dict[str, Callable[[LoadedConfig], Any]] = {"local": run_local}


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
        the plan of a dry run, else the job's result.

    Raises:
        FgrayError: whatever is wrong with the configuration or stops the job.
    """
    given = {"output": output, "cluster": cluster}
    assignments = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]  # JSON keeps it text in YAML
    config = load_config(path, [*overrides, *assignments])
    launch = _LAUNCHERS.get(config.job.cluster)
    if launch is None:
        raise ConfigError(
            "only local runs are supported in this version", where=f"cluster: {config.job.cluster}", fix="leave cluster out, or say local"
        )
    return plan_job(config) if dry_run else launch(config)
