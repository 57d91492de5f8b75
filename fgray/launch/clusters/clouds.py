"""Clusters on AWS, GCP and Kubernetes, through Ray's own launcher and through kubectl.

Not tried: no account and no Kubernetes were at hand. What is tested is which commands are run.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import json
import os
import re
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
POD_SECONDS = 1800.0  # until a head's pod answers: a machine that is started, an image of gigabytes
_POLL_SECONDS = 5.0
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_REMOTE_PORT = 8265
_HEAD_PODS = "ray.io/cluster={},ray.io/node-type=head"  # as KubeRay labels them
_NO_HEAD = re.compile(r"Head node of cluster \(.*\) not found")  # how `ray get-head-ip` ends where it could ask


class UnknownHeadError(RunError):
    """Nobody can tell whether a cluster runs."""


def start(file: ClusterFile) -> None:
    """Start a cluster, or apply a changed file to it; jobs on a cluster that answers are not disturbed.

    Raises:
        TokenError: it runs with a token that this machine does not have.
        UnknownHeadError: nobody can tell whether it runs.
        RunError: a tool, a client library or credentials are missing, the start fails, or it does not answer in time.
    """
    if file.provider == "kuberay":
        from fgray.launch.clusters.kuberay import manifests

        _run([*_kubectl(file), "apply", "-f", "-"], file, _objects(manifests(file)))
        _await_pod(file)
        return
    _check_client(file)
    make_state_folder(file.name)
    token, there = token_file(file), _has_head(file)  # nobody knows: nothing is started, for the sake of the jobs that may run
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
    """Return whether the cloud has a head of this name, as Ray's launcher finds it.

    Raises:
        UnknownHeadError: the cloud could not be asked.
    """
    done = subprocess.run([*_RAY, "get-head-ip", file.path], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return True
    if _NO_HEAD.search(done.stderr):
        return "is in state" in done.stdout + done.stderr  # one that is not ready may be on its way
    reason = (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    fix = "see the credentials and the network; nothing was started or stopped"
    raise UnknownHeadError(f"whether the cluster '{file.name}' runs could not be asked ({reason})", where=file.path, fix=fix)


def _runs(file: ClusterFile) -> bool:
    try:
        with tunnel(file):
            return True
    except (TokenError, UnknownHeadError):
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
        from botocore.exceptions import BotoCoreError

        fix = "`aws configure`, or AWS_PROFILE, or `aws sso login`"
        try:
            found = boto3.Session().get_credentials()
        except BotoCoreError as error:  # e.g. a profile that there is not
            raise RunError(f"the AWS credentials cannot be read ({error})", where=file.path, fix=fix) from error
        if found is None:
            raise RunError("no AWS credentials are found", where=file.path, fix=fix)
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


def _await_pod(file: ClusterFile) -> None:
    """Wait until a cluster on Kubernetes answers, saying what it waits for.

    Raises:
        TokenError: it refuses the token that Kubernetes keeps for it.
        RunError: it has not answered in time.
    """
    deadline, said = time.monotonic() + POD_SECONDS, ""
    while True:
        state = _pod_state(file)
        if state == "Ready":
            try:
                with tunnel(file):
                    return
            except TokenError:
                raise
            except RunError as error:
                state = error.what
        if state != said:
            print(f"waiting for the head of '{file.name}': {state}", file=sys.stderr, flush=True)
            said = state
        if time.monotonic() > deadline:
            namespace = file.content["provider"].get("namespace", "default")
            fix = f"`kubectl -n {namespace} describe pod -l {_HEAD_PODS.format(file.name)}` says why; the same command waits again"
            raise RunError(
                f"the head of '{file.name}' did not come up in {POD_SECONDS / 60:.0f} minutes ({state})", where=file.path, fix=fix
            )
        time.sleep(_POLL_SECONDS)


def _pod_state(file: ClusterFile) -> str:
    """Return "Ready" where the head's pod is, else what it lacks."""
    command = [*_kubectl(file), "get", "pods", "-l", _HEAD_PODS.format(file.name), "-o", "json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    pods = [pod.get("status") or {} for pod in json.loads(done.stdout or "{}").get("items", ())]
    if not pods:
        return "no pod yet"
    conditions = {one.get("type"): one for one in pods[0].get("conditions") or ()}
    if (conditions.get("Ready") or {}).get("status") == "True":
        return "Ready"
    for one in pods[0].get("containerStatuses") or ():
        if (waiting := (one.get("state") or {}).get("waiting")) is not None:
            return f"its pod is waiting ({waiting.get('reason', 'no reason given')})"
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return f"its pod has no machine yet ({scheduled.get('reason', 'no reason given')})"
    return f"its pod is {pods[0].get('phase', 'unknown').lower()}"


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
