"""Which commands are run for clusters in the cloud; the clouds themselves were not at hand."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
import types
from pathlib import Path

import pytest
import yaml

from fgray.errors import ConfigError, RunError
from fgray.launch.clusters import clouds, lifecycle
from fgray.launch.clusters.file import ClusterFile, load_cluster

CLUSTERS = Path(__file__).resolve().parents[3] / "cluster"
STUB = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    given = sys.stdin.read() if "-" in sys.argv else ""
    print(json.dumps([sys.argv[1:], given]), file=log)
if "get" in sys.argv:
    print({token!r}, end="")
if "dashboard" in sys.argv or "port-forward" in sys.argv:
    print("cannot find the head", file=sys.stderr)
    sys.exit(1)
sys.exit(int(os.environ.get("STUB_STATUS", "0")))
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


def test_up_and_down_on_aws(tmp_path: Path, aws: ClusterFile) -> None:
    lifecycle.up(aws)
    lifecycle.down(aws)
    looked, up, down = calls(tmp_path)
    assert looked[0] == "dashboard" and looked[-1] == aws.path  # whether jobs would be disturbed
    assert up == ["up", "-y", aws.path]
    assert down == ["down", "-y", aws.path]
    token = tmp_path / ".fgray/clusters/far/token"
    assert len(token.read_text()) == 64 and stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_file_with_problems_starts_nothing(tmp_path: Path, stub: Path) -> None:
    with pytest.raises(ConfigError, match="no idle timeout is stated"):
        path = Path(cluster(tmp_path, "kuberay").path)
        path.write_text(path.read_text().replace("idle_timeout_minutes: 5\n", ""))
        lifecycle.up(load_cluster(str(path)))
    assert not (tmp_path / "calls").exists()


def test_a_tunnel_that_does_not_open(aws: ClusterFile) -> None:
    with pytest.raises(RunError, match=r"no way to the cluster 'far' \(cannot find the head\)"), lifecycle.reach(aws):
        raise AssertionError
    assert not lifecycle.status(aws).running


def test_a_start_that_fails(aws: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_STATUS", "7")
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


def test_kubernetes(tmp_path: Path, stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    file = cluster(tmp_path, "kuberay", namespace="vision")
    lifecycle.up(file)
    lifecycle.down(file)
    with pytest.raises(RunError, match="no way to the cluster"), lifecycle.reach(file):
        raise AssertionError
    apply, delete, get, forward = calls(tmp_path)
    assert apply == ["-n", "vision", "apply", "-f", "-"]
    assert delete == ["-n", "vision", "delete", "--ignore-not-found", "-f", "-"]
    assert get == ["-n", "vision", "get", "secret", "far", "-o", "jsonpath={.data.auth_token}"]
    assert forward[:5] == ["-n", "vision", "port-forward", "--address", "127.0.0.1"]
    assert forward[5] == "service/far-head-svc" and forward[6].endswith(":8265")
    given = json.loads(json.loads((tmp_path / "calls").read_text().splitlines()[0])[1])
    assert {item["kind"] for item in given["items"]} == {"RayCluster", "NetworkPolicy"}
    token = tmp_path / ".fgray/clusters/far/token"
    assert token.read_text() == "abc123" and stat.S_IMODE(token.stat().st_mode) == 0o600


def test_kubernetes_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="a cluster on Kubernetes needs kubectl"):
        lifecycle.up(cluster(tmp_path, "kuberay"))
