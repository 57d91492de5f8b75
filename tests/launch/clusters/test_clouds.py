"""Which commands are run for clusters in the cloud; the clouds themselves were not at hand."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from fgray.errors import ConfigError, RunError
from fgray.launch.clusters import clouds, lifecycle, local_nodes
from fgray.launch.clusters.dashboard import NotUpError
from fgray.launch.clusters.file import ClusterFile, load_cluster

CLUSTERS = Path(__file__).resolve().parents[3] / "cluster"
STUB = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    given = sys.stdin.read() if "-" in sys.argv else ""
    print(json.dumps([sys.argv[1:], given]), file=log)
if "get" in sys.argv:
    print({token!r}, end="")
if "get-head-ip" in sys.argv and "HEAD_SAYS" in os.environ:
    print(os.environ["HEAD_SAYS"], file=sys.stderr)
    sys.exit(1)
if "dashboard" in sys.argv or "port-forward" in sys.argv:
    print("cannot find the head", file=sys.stderr)
    sys.exit(1)
sys.exit(int(os.environ.get("STUB_STATUS", "0")))
"""


NO_HEAD = "RuntimeError: Head node of cluster (far) not found!"  # how Ray's own command ends
PODS = [
    {"items": []},
    {"items": [{"status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}}]},
    {"items": [{"status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}}]},
    {"items": [{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}]},
]
# A kubectl whose cluster comes up: its pods are in one state after the other, then its dashboard answers at the end of a tunnel.
RISING = """#!{python}
import json, os, pathlib, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as log:
    print(json.dumps([sys.argv[1:], sys.stdin.read() if sys.argv[-1] == "-" else ""]), file=log)
if "pods" in sys.argv:
    states = json.loads((folder / "pods.json").read_text())
    print(json.dumps(states[0]))
    (folder / "pods.json").write_text(json.dumps(states[1:] or states))
if "secret" in sys.argv:
    print({token!r}, end="")
if "port-forward" in sys.argv:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            good = self.headers["Authorization"] == "Bearer abc123"
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(b'{{"ray_version": "2"}}' if good else b"")
        def log_message(self, *told):
            pass
    HTTPServer(("127.0.0.1", int(sys.argv[-1].partition(":")[0])), Answer).serve_forever()
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that notes how it is called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "kubectl"
    path.write_text(STUB.format(python=sys.executable, log=str(tmp_path / "calls"), token=base64.b64encode(b"abc123").decode()))
    path.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return path


def calls(tmp_path: Path) -> list[list[str]]:
    return [json.loads(line)[0] for line in (tmp_path / "calls").read_text().splitlines()]


def cluster(tmp_path: Path, provider: str, **changes: str) -> ClusterFile:
    """A shipped file under another name, with its placeholders filled in."""
    shipped = {"aws": "aws-l4-spot", "gcp": "gcp-l4-spot", "kuberay": "kuberay"}[provider]
    text = (CLUSTERS / f"{shipped}.yaml").read_text().replace("sg-REPLACE", "sg-1").replace("REPLACE-PROJECT", "mine")
    content = yaml.safe_load(text.replace(f"clusters/{shipped}/", "clusters/far/"))
    content["cluster_name"] = "far"
    content["provider"].update(changes)
    path = tmp_path / "far.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_cluster(str(path))


@pytest.fixture
def aws(tmp_path: Path, stub: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterFile:
    monkeypatch.setattr(clouds, "_RAY", (str(stub),))
    session = types.SimpleNamespace(get_credentials=lambda: "some")
    module = types.ModuleType("boto3")
    module.Session = lambda: session  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace(name="boto3")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "boto3", module)
    monkeypatch.setattr(clouds.importlib.util, "find_spec", lambda name: object())
    return cluster(tmp_path, "aws")


def test_up_and_down_on_aws(tmp_path: Path, aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAD_SAYS", NO_HEAD)
    lifecycle.up(aws)
    lifecycle.down(aws)
    looked, up, down = calls(tmp_path)
    assert looked == ["get-head-ip", aws.path]  # whether jobs would be disturbed
    assert up == ["up", "-y", aws.path]
    assert down == ["down", "-y", aws.path]
    token = tmp_path / ".fgray/clusters/far/token"
    assert len(token.read_text()) == 64 and stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_local_clusters_jobs_may_wait_for_their_packages_too(tmp_path: Path) -> None:
    assert local_nodes._environment(tmp_path, tmp_path / "token")["RAY_JOB_START_TIMEOUT_SECONDS"] == "3600"


def test_a_file_with_problems_starts_nothing(tmp_path: Path, stub: Path) -> None:
    with pytest.raises(ConfigError, match="no idle timeout is stated"):
        path = Path(cluster(tmp_path, "kuberay").path)
        path.write_text(path.read_text().replace("idle_timeout_minutes: 5\n", ""))
        lifecycle.up(load_cluster(str(path)))
    assert not (tmp_path / "calls").exists()


def test_a_tunnel_that_does_not_open(aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="the head of 'far' runs and cannot be reached"), lifecycle.reach(aws):
        raise AssertionError
    monkeypatch.setenv("HEAD_SAYS", NO_HEAD)
    with pytest.raises(RunError, match=r"no way to the cluster 'far' \(cannot find the head\)"), lifecycle.reach(aws):
        raise AssertionError
    assert not lifecycle.status(aws).running


def test_a_start_that_fails(aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_STATUS", "7")
    monkeypatch.setenv("HEAD_SAYS", NO_HEAD)
    with pytest.raises(RunError, match=r"`kubectl up -y .*` ended with 7"):
        lifecycle.up(aws)


def test_without_credentials(aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["boto3"], "Session", lambda: types.SimpleNamespace(get_credentials=lambda: None))
    with pytest.raises(RunError, match="no AWS credentials are found"):
        lifecycle.up(aws)


@pytest.mark.parametrize(("provider", "package"), [("aws", "boto3"), ("gcp", "google-api-python-client")])
def test_without_the_client_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, package: str) -> None:
    monkeypatch.setattr(clouds.importlib.util, "find_spec", lambda name: None)
    file = cluster(tmp_path, provider)
    with pytest.raises(RunError, match=f"a cluster on {provider} needs {package} .*python -m pip install {package}"):
        lifecycle.up(file)


@pytest.fixture
def rising(tmp_path: Path, stub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(clouds, "_POLL_SECONDS", 0.01)
    (tmp_path / "pods.json").write_text(json.dumps(PODS))
    stub.write_text(RISING.format(python=sys.executable, folder=str(tmp_path), token=base64.b64encode(b"abc123").decode()))
    return stub


def test_kubernetes(tmp_path: Path, rising: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = cluster(tmp_path, "kuberay", namespace="vision")
    lifecycle.up(file)
    lifecycle.down(file)
    apply, *waited, secret, forward, delete = calls(tmp_path)
    assert apply == ["-n", "vision", "apply", "-f", "-"]
    assert delete == ["-n", "vision", "delete", "--ignore-not-found", "-f", "-"]
    assert waited == [["-n", "vision", "get", "pods", "-l", "ray.io/cluster=far,ray.io/node-type=head", "-o", "json"]] * 4
    assert secret == ["-n", "vision", "get", "secret", "far", "-o", "jsonpath={.data.auth_token}"]
    assert forward[:5] == ["-n", "vision", "port-forward", "--address", "127.0.0.1"]
    assert forward[5] == "service/far-head-svc" and forward[6].endswith(":8265")
    said = capfd.readouterr().err
    assert "no pod yet" in said and "no machine yet (Unschedulable)" in said and "is waiting (ContainerCreating)" in said
    given = json.loads(json.loads((tmp_path / "calls").read_text().splitlines()[0])[1])
    assert {item["kind"] for item in given["items"]} == {"RayCluster", "NetworkPolicy"}
    token = tmp_path / ".fgray/clusters/far/token"
    assert token.read_text() == "abc123" and stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_pod_that_never_comes_up_ends_the_wait(tmp_path: Path, rising: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "POD_SECONDS", 0.05)
    (tmp_path / "pods.json").write_text(json.dumps(PODS[1:2]))
    with pytest.raises(
        RunError, match=r"did not come up in .* \(its pod has no machine yet \(Unschedulable\)\) .*kubectl -n fgray describe pod"
    ):
        lifecycle.up(cluster(tmp_path, "kuberay"))


def test_reaching_a_pod_that_is_not_there_fails_at_once(tmp_path: Path, stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(NotUpError, match="no way to the cluster"), lifecycle.reach(cluster(tmp_path, "kuberay")):
        raise AssertionError


def test_a_cloud_that_cannot_be_asked_starts_nothing(tmp_path: Path, aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAD_SAYS", "botocore.exceptions.ClientError: RequestExpired")
    with pytest.raises(RunError, match=r"whether the cluster 'far' runs could not be asked \(.*RequestExpired\)"):
        lifecycle.up(aws)
    assert not [call for call in calls(tmp_path) if call[0] == "up"]
    with pytest.raises(RunError, match="could not be asked") as caught, lifecycle.reach(aws):
        raise AssertionError
    assert not isinstance(caught.value, NotUpError)  # which would let a job start it


def test_the_token_of_a_cluster_that_fgray_starts_is_its_own(tmp_path: Path, aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_text("of another cluster")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    monkeypatch.setenv("HEAD_SAYS", NO_HEAD)
    lifecycle.up(aws)
    assert other.read_text() == "of another cluster" and (tmp_path / ".fgray/clusters/far/token").exists()
    Path(aws.path).write_text(Path(aws.path).read_text().replace("  fgray:\n", "  fgray:\n    address: http://127.0.0.1:8265\n", 1))
    assert lifecycle.token_file(load_cluster(aws.path)) == other


def test_a_profile_that_is_not_there_is_one_line(aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ProfileNotFound

    def session() -> None:
        raise ProfileNotFound(profile="nobody")

    monkeypatch.setattr(sys.modules["boto3"], "Session", session)
    with pytest.raises(RunError, match=r"the AWS credentials cannot be read \(.*nobody.*\)"):
        lifecycle.up(aws)


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_setup_commands_give_ray_its_token_and_can_run_again(tmp_path: Path, provider: str) -> None:
    """The files are bound into the container's home, owned by whom the host says; sudo stands for the image's own."""
    content = cluster(tmp_path, provider).content
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "sudo").chmod(0o755)
    for target in content["file_mounts"]:
        assert Path(target).parent == Path("/home/ray")  # there in the image; a folder that is not, root would own
    for _ in range(2):
        for target in content["file_mounts"]:
            (home / Path(target).name).write_text(f"content of {Path(target).name}")
            (home / Path(target).name).chmod(0o600)
        for command in content["setup_commands"]:
            subprocess.run(["bash", "-ec", command], check=True, env={"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"})
    named = {text.partition("=")[2] for text in content["docker"]["run_options"] if "_PATH=" in text or "_FILE=" in text}
    assert named and all(name.startswith("/home/ray/") for name in (text.rpartition("=")[2] for text in named))
    for name in (text.rpartition("=")[2] for text in named):
        copy = home / Path(name).relative_to("/home/ray")
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600 and copy.read_text().startswith("content of")
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    for target in content["file_mounts"]:
        assert stat.S_IMODE((home / Path(target).name).stat().st_mode) == 0o640  # the head's Ray hands it on


def test_kubernetes_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="a cluster on Kubernetes needs kubectl"):
        lifecycle.up(cluster(tmp_path, "kuberay"))
