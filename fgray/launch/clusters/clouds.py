"""Clusters on AWS, GCP and Kubernetes, through Ray's own launcher and through kubectl.

Not tried: no account and no Kubernetes were at hand. What is tested is which commands are run.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fgray.errors import RunError
from fgray.launch.clusters import dashboard
from fgray.launch.clusters.dashboard import NotUpError, TokenError
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.clusters.local_nodes import free_ports
from fgray.launch.clusters.state import make_state_folder, token_file, write_private

RAY_CLOUDS = ("aws", "gcp")
TUNNEL_SECONDS = 60.0
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_REMOTE_PORT = 8265


def start(file: ClusterFile) -> None:
    """Start a cluster, or apply a changed file to it; jobs on a cluster that answers are not disturbed.

    Raises:
        TokenError: it runs with a token that this machine does not have.
        RunError: a tool, a client library or credentials are missing, or the start fails.
    """
    if file.provider == "kuberay":
        from fgray.launch.clusters.kuberay import manifests

        _run([*_kubectl(file), "apply", "-f", "-"], file, _objects(manifests(file)))
        return
    _check_client(file)
    make_state_folder(file.name)
    token, there = token_file(file), _has_head(file)
    if not token.exists():  # the file's file_mounts take it to every node
        if there:
            fix = f"copy the token of whoever started it to {token}, or `fgray cluster down {file.path}` first"
            raise TokenError(f"the cluster '{file.name}' runs with a token that is not here", where=file.path, fix=fix)
        write_private(token, secrets.token_hex(32))
    _run([*_RAY, "up", "-y", *(["--no-restart"] if there and _runs(file) else []), file.path], file)


def stop(file: ClusterFile) -> None:
    """Stop a cluster with all its nodes.

    Raises:
        RunError: a tool, a client library or credentials are missing, or the stop fails.
    """
    if file.provider == "kuberay":
        from fgray.launch.clusters.kuberay import manifests

        _run([*_kubectl(file), "delete", "--ignore-not-found", "-f", "-"], file, _objects(manifests(file)))
        return
    _check_client(file)
    _run([*_RAY, "down", "-y", file.path], file)


@contextmanager
def tunnel(file: ClusterFile) -> Iterator[str]:
    """Yield the address of a cluster's dashboard at this end of a tunnel that lives as long as the body.

    Raises:
        NotUpError: there is no such cluster.
        TokenError: it refuses the token.
        RunError: the tunnel does not open, or the cluster does not answer at its other end.
    """
    (port,) = free_ports(1)
    if file.provider == "kuberay":
        _fetch_token(file)
        service = f"service/{file.name}-head-svc"  # as KubeRay names it
        command = [*_kubectl(file), "port-forward", "--address", "127.0.0.1", service, f"{port}:{_REMOTE_PORT}"]
    else:
        _check_client(file)
        command = [*_RAY, "dashboard", "--port", str(port), "--remote-port", str(_REMOTE_PORT), file.path]
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            _await(process, address, file, told)
            yield address
        finally:
            _end(process)


def _await(process: subprocess.Popen[bytes], address: str, file: ClusterFile, told: IO[str]) -> None:
    deadline = time.monotonic() + TUNNEL_SECONDS
    while not dashboard.answers(address, token_file(file)):
        if process.poll() is not None or time.monotonic() > deadline:
            told.seek(0)
            lines = [line.strip() for line in told.read().splitlines() if line.strip()]
            reason = lines[-1][:200] if lines else "no answer"
            if file.provider == "kuberay" or not _has_head(file):  # manifests may be applied again at any time
                fix = f"`fgray cluster up {file.path}` starts it"
                raise NotUpError(f"no way to the cluster '{file.name}' ({reason})", where=file.path, fix=fix)
            fix = f"try again; `fgray cluster up {file.path}` starts its Ray anew, which ends its jobs"
            raise RunError(f"the head of '{file.name}' runs and cannot be reached ({reason})", where=file.path, fix=fix)
        time.sleep(0.5)


def _has_head(file: ClusterFile) -> bool:
    """Return whether the cloud has a head of this name, as Ray's launcher finds it."""
    return subprocess.run([*_RAY, "get-head-ip", file.path], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def _runs(file: ClusterFile) -> bool:
    try:
        with tunnel(file):
            return True
    except TokenError:
        raise
    except RunError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a tunnel with the ssh that it started, which is in the same process group."""
    for number in (15, 9):
        try:
            os.killpg(process.pid, number)
            process.wait(5)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def _check_client(file: ClusterFile) -> None:
    """Refuse early where Ray's launcher would end in a traceback.

    Raises:
        RunError: the cloud's client library or the credentials are missing.
    """
    package, module = {"aws": ("boto3", "boto3"), "gcp": ("google-api-python-client", "googleapiclient")}[file.provider]
    if importlib.util.find_spec(module) is None:
        raise RunError(f"a cluster on {file.provider} needs {package}", where=file.path, fix=f"python -m pip install {package}")
    if file.provider == "aws":
        import boto3

        if boto3.Session().get_credentials() is None:
            raise RunError("no AWS credentials are found", where=file.path, fix="`aws configure`, or AWS_PROFILE, or `aws sso login`")
    else:
        import google.auth

        try:
            google.auth.default()
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise RunError("no Google credentials are found", where=file.path, fix="gcloud auth application-default login") from error


def _kubectl(file: ClusterFile) -> list[str]:
    program = shutil.which("kubectl")
    if program is None:
        raise RunError(
            "a cluster on Kubernetes needs kubectl", where=file.path, fix="install kubectl and name the cluster in its configuration"
        )
    return [program, "-n", str(file.content["provider"].get("namespace", "default"))]


def _objects(manifests: Sequence[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})


def _fetch_token(file: ClusterFile) -> None:
    """Take over the token that KubeRay has made, from its Secret into the user's own file."""
    template = "jsonpath={.data.auth_token}"
    done = subprocess.run([*_kubectl(file), "get", "secret", file.name, "-o", template], capture_output=True, text=True)
    try:
        token = base64.b64decode(done.stdout, validate=True).decode() if done.returncode == 0 else ""
    except (binascii.Error, UnicodeDecodeError):
        token = ""
    if not token:
        reason = (done.stderr.strip().splitlines() or ["it has no auth_token"])[-1][:200]
        raise NotUpError(
            f"the token of '{file.name}' cannot be read ({reason})", where=file.path, fix=f"`fgray cluster up {file.path}` starts it"
        )
    make_state_folder(file.name)
    write_private(token_file(file), token)


def _run(command: Sequence[str], file: ClusterFile, given: str | None = None) -> None:
    """Run a tool whose messages go to standard error as they come."""
    done = subprocess.run(command, input=given, stdin=None if given else subprocess.DEVNULL, stdout=sys.stderr.fileno(), text=True)
    if done.returncode:
        what = f"`{Path(command[0]).name} {' '.join(command[1:])}` ended with {done.returncode}"
        raise RunError(what, where=file.path, fix="see the messages above; the same command tries again")
