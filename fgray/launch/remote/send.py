"""Sends a job to a cluster: what travels is gathered, versions are compared, the cluster is started if it is not up."""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import shlex
import sys
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fgray.config import LoadedConfig
from fgray.config.source import to_yaml
from fgray.errors import RunError
from fgray.launch.clusters.dashboard import NotUpError
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.plan.job_plan import check_workers
from fgray.launch.remote import pins
from fgray.launch.remote.environment import named_variables
from fgray.launch.remote.jobs import GRACE_SECONDS, RemoteJob
from fgray.launch.remote.locations import Relocated, relocate
from fgray.launch.remote.records import Record
from fgray.launch.remote.server import NoAnswerError, job_server
from fgray.launch.remote.upload import CONFIG, Upload, gather

Say = Callable[[str], None]
_INSTALL_SECONDS = 3600  # for packages that a job brings: PyTorch alone is gigabytes


def send(config: LoadedConfig, overrides: Sequence[str], file: ClusterFile, say: Say) -> RemoteJob:
    """Send a job to a cluster. The same configuration again goes on with the same run folder.

    Args:
        config: the job.
        overrides: what followed ``--set``, for `fgray resume`.
        file: the cluster; it is started if it is not up.
        say: takes lines for the user.

    Raises:
        ConfigError: workers that its nodes can never hold, a place that they cannot see, more to upload than may be, a secret in the
            configuration.
        RunError: the cluster cannot be started or reached, runs other versions, or refuses the job.
    """
    check_workers(config, file)
    moved = relocate(config, shared_folders(file))
    variables = named_variables(moved.values, config.path)
    installed = pins.pinned()
    upload = gather(config.job.job, moved, to_yaml(moved.values), pins.to_requirements(installed))
    for line in upload.check(file.options.upload_mib << 20, file.path):
        say(line)
    ensure_up(file, say)
    job = new_id(config.job.name)
    runtime_env: dict[str, Any] = {"env_vars": {**variables, **_environment(file, moved)}}
    if file.options.dependencies == "install":
        runtime_env |= {"pip": pins.to_install(installed), "config": {"setup_timeout_seconds": _INSTALL_SECONDS}}
    metadata = {"fgray": job, "job": config.job.job, "name": config.job.name, "output": moved.output, "config": config.path}
    with job_server(file) as server:
        pins.check_runtime(*server.versions(), file.path)
        runtime_env["working_dir"] = server.upload(*package_of(upload))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = Record(job, str(Path(file.path).absolute()), config.path, tuple(overrides), str(Path.cwd()), moved.output, now)
        record.save()  # before: a job that runs is always known here
        try:
            server.submit(job, _entrypoint(file, config.job.job), runtime_env, metadata)
        except NoAnswerError:
            raise  # the server may have taken it
        except RunError:
            record.forget()
            raise
    say(f"job {job} was sent to the cluster '{file.name}'; its run folder is {moved.output}")
    return RemoteJob(job, file, record)


def shared_folders(file: ClusterFile) -> list[Path]:
    """Return the folders that this machine and all nodes of a cluster see under the same path."""
    here = file.provider == "external" and file.options.address is None  # nodes on this machine
    return [Path("/")] if here else [Path(folder) for folder in file.options.shared_folders]


def ensure_up(file: ClusterFile, say: Say) -> None:
    """Start a cluster that is not up; one that is up and does not answer is left alone, for the sake of its jobs.

    Raises:
        RunError: it cannot be started or reached.
    """
    from fgray.launch.clusters import lifecycle

    try:
        with lifecycle.reach(file):
            return
    except NotUpError:
        pass
    say(f"starting the cluster '{file.name}'; `fgray cluster down {file.path}` takes it down again")
    say(lifecycle.up(file))


def new_id(name: str) -> str:
    """Return an id for a job of this name: letters, digits and dashes, the time in UTC, and chance against two in one second."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "job"
    return f"{plain}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _environment(file: ClusterFile, moved: Relocated) -> dict[str, str]:
    """Return what every process of the job is told: its cluster, what this may ever have, where weights are kept; nothing secret."""
    return {"FGRAY_CLUSTER": file.told(), "FGRAY_WEIGHTS": f"{moved.store}/weights", "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS)}


def _entrypoint(file: ClusterFile, job: str) -> str:
    """Return the command of the job. Nodes on this machine have this Python, which need not be the first of their PATH."""
    python = shlex.quote(sys.executable) if file.provider == "external" and not file.options.address else "python"
    return f"exec {python} jobs/{job}.py {CONFIG}"  # exec: what is told to stop is the job, not a shell around it


def package_of(upload: Upload) -> tuple[str, bytes]:
    """Return a zip file of what travels, and its name; the same content gives the same bytes and name.

    Raises:
        RunError: a file cannot be read.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, item in sorted(upload.files.items()):
            try:
                content = item if isinstance(item, bytes) else item.read_bytes()
            except OSError as error:
                raise RunError(f"a file of the job cannot be read ({error.strerror})", where=str(item), fix="check it") from error
            entry = zipfile.ZipInfo(str(path))  # its date is that of the format's beginning
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    package = buffer.getvalue()
    return f"_ray_pkg_{hashlib.sha256(package).hexdigest()[:32]}.zip", package
