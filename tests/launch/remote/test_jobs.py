"""Jobs on a real cluster: sent, followed, left alone, stopped, resumed, and refused without the token."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fgray.errors import RunError
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.clusters.local_nodes import read_state
from fgray.launch.clusters.state import token_file
from fgray.launch.remote.send import new_id
from fgray.launch.remote.server import JobServer, job_server
from fgray.launch.remote.stream import follow
from tests.launch.remote.conftest import PLANTED, Cli

pytestmark = pytest.mark.timeout(900)

ENCODER = """
import time
import numpy as np
import own_numbers

class Slow:
    image_size = 32
    def __init__(self, device, seconds):
        self.seconds = seconds
    @classmethod
    def fingerprint(cls, seconds):
        return "how long it takes does not matter"
    def embed_images(self, pixels):
        time.sleep(self.seconds)
        return np.asarray(pixels, np.float64).reshape(len(pixels), -1)[:, :: own_numbers.STRIDE]
    def embed_texts(self, texts):
        time.sleep(self.seconds)
        return np.random.default_rng(0).standard_normal((len(texts), 3072 // own_numbers.STRIDE))
"""
CONFIG = """
job: eval
name: own model
model: {kind: python, path: "own_encoder:Slow", options: {seconds: %s}}
benchmarks: [{name: spec_style, cases: 2, subsets: [existence]}]
compute: {runner: serial, batch_size: 1, unit_rows: 1}
output: %s
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "own_encoder.py").write_text(ENCODER)
    (tmp_path / "own_numbers.py").write_text("STRIDE = 64\n")
    return tmp_path


def configure(project: Path, name: str, seconds: float) -> str:
    (project / f"{name}.yaml").write_text(CONFIG % (seconds, f"runs/{name}"))
    return f"{name}.yaml"


def wait_for(what: str, found: object) -> None:
    deadline = time.monotonic() + 280  # seconds are enough on an idle machine
    while not found():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def of_job(job: str) -> list[int]:
    """Processes whose environment names a job's working directory or id."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if job.encode() in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_a_job_survives_its_sender_is_stopped_and_goes_on_to_the_local_result(
    project: Path, cluster: ClusterFile, cli: Cli, environment: dict[str, str]
) -> None:
    slow = configure(project, "slow", 1.5)
    command = [sys.executable, "-m", "fgray", "submit", slow, "--cluster", cluster.path]
    sender = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    parts = lambda: list(project.glob("runs/slow/store/*/embed_*/part-*"))  # noqa: E731
    wait_for("no part was committed", parts)
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    (row,) = [line for line in cli("jobs").stdout.splitlines() if "own-model" in line]
    job = row.split()[0]
    assert "running" in row
    seen = len(parts())
    wait_for("the job died with its sender", lambda: len(parts()) > seen)

    stopped = cli("stop")
    assert stopped.returncode == 0 and stopped.stdout == f"{job} stopped\n", stopped
    assert not (project / "runs/slow/lock.json").exists()
    assert [path.name for path in project.glob("runs/slow/**/.fgray-*")] == []
    wait_for("processes are left", lambda: not of_job(f"jobs/{job}") and not of_job(job))
    assert cli("status").returncode == 130
    assert json.loads((Path(environment["HOME"]) / f".fgray/jobs/{job}.json").read_text())["status"] == "STOPPED"
    before = {path: path.stat().st_mtime_ns for path in parts()}

    resumed = cli("resume", job)
    assert resumed.returncode == 0, resumed
    assert "already stored" in resumed.stdout and resumed.stderr.splitlines()[-1].endswith(" ended")
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    local = cli("submit", configure(project, "local", 0.0))
    assert local.returncode == 0, local
    ours, theirs = (json.loads((project / f"runs/{name}/metrics.json").read_text()) for name in ("slow", "local"))
    assert ours["fingerprints"].pop("config") != theirs["fingerprints"].pop("config")  # the option says other seconds
    assert ours == theirs
    again = cli("logs")
    assert again.stdout.endswith(resumed.stdout[-200:])
    run = json.loads((project / "runs/slow/run.json").read_text())
    assert run["config"]["output"] == str(project / "runs/slow") and "cluster" not in run["config"]


def test_an_interrupt_leaves_the_job_to_itself(project: Path, cluster: ClusterFile, cli: Cli, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fgray", "submit", configure(project, "left", 0.5), "--cluster", cluster.path]
    sender = subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert sender.stdout is not None
    for line in sender.stdout:
        if "items" in line:
            break
    sender.send_signal(signal.SIGINT)
    _, errors = sender.communicate(timeout=60)
    assert sender.returncode == 130 and "the job goes on; come back with: fgray logs -f own-model-" in errors and "Traceback" not in errors
    done = cli("logs", "-f")
    assert done.returncode == 0, done
    assert (project / "runs/left/metrics.json").exists()


def test_a_mistake_is_one_line_and_the_jobs_own_status(project: Path, cluster: ClusterFile, cli: Cli) -> None:
    (project / "bad.yaml").write_text((CONFIG % (0, "runs/bad")).replace("own_encoder:Slow", "own_encoder:Gone"))
    done = cli("submit", "bad.yaml", "--cluster", cluster.path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("error: 'own_encoder' has no 'Gone'")
    assert done.stderr.splitlines()[-1].endswith("failed with exit status 1")


OTHERS = [pytest.param(code, words, marks=pytest.mark.chaos) for code, words in ((4, "the data could not tell"), (0, "ended"))]


@pytest.mark.parametrize(("code", "words"), [(3, "a gate failed"), *OTHERS])
def test_exit_statuses_are_the_jobs_own(cluster: ClusterFile, cli: Cli, code: int, words: str) -> None:
    job = new_id("verdict")
    with job_server(cluster) as server:
        server.submit(job, f"exec {sys.executable} -c 'raise SystemExit({code})'", {}, {"fgray": job})
    done = cli("logs", "-f", job, "--cluster", cluster.path)
    assert done.returncode == code and words in done.stderr
    assert job in cli("jobs", "--cluster", cluster.path).stdout


@contextmanager
def cutting_proxy(port: int, most: int) -> Iterator[tuple[str, list[int]]]:
    """A way to the server that breaks whenever so many bytes have come back through it."""
    listener = socket.create_server(("127.0.0.1", 0))
    cuts: list[int] = []

    def pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(512):
                sink.sendall(data)
                passed += len(data)
                if limit is not None and passed > limit:
                    cuts.append(passed)
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=pump, args=(near, far, None), daemon=True).start()
            threading.Thread(target=pump, args=(far, near, most), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", cuts
    finally:
        listener.close()


def test_a_log_comes_whole_and_once_through_a_connection_that_breaks(cluster: ClusterFile) -> None:
    job, lines = new_id("log"), 300
    code = f"import time\nfor n in range({lines}):\n print('line', n, 'ä' * 20, flush=True)\n time.sleep(0.01)"
    with job_server(cluster) as server:
        server.submit(job, f'exec {sys.executable} -c "{code}"', {}, {"fgray": job})
        direct = server._address
        token = token_file(cluster).read_text()
    port = int(direct.rpartition(":")[2])
    written = io.StringIO()
    with cutting_proxy(port, 6000) as (address, cuts):

        @contextmanager
        def reach() -> Iterator[JobServer]:
            yield JobServer(address if len(cuts) < 4 else direct, token, cluster.path)

        state = follow(reach, job, written.write, print)
    assert state.exit_code == 0 and len(cuts) >= 4
    shown = [line for line in written.getvalue().splitlines() if line.startswith("line ")]
    assert shown == [f"line {n} {'ä' * 20}" for n in range(lines)]


def test_without_the_token_nothing_is_done_and_nothing_is_told(project: Path, cluster: ClusterFile, cli: Cli) -> None:
    job = new_id("held")
    with job_server(cluster) as server:
        server.submit(job, "exec sleep 60", {}, {"fgray": job})
        address = server._address
        before = {state.id for state in server.states()}
    (project / "wrong").write_text("0" * 64)
    text = (
        Path(cluster.path)
        .read_text()
        .replace("{dependencies: image}", f'{{dependencies: image, address: "{address}", shared_folders: [/]}}')
    )
    (project / "stranger.yaml").write_text(text)
    config = configure(project, "refused", 0)
    for token, words in (("wrong", "the cluster refuses the token"), ("none", "the cluster wants a token")):
        for command in (["submit", config], ["stop", job], ["logs", job], ["logs", "-f", job], ["status", job], ["jobs"]):
            done = cli(*command, "--cluster", "stranger.yaml", RAY_AUTH_TOKEN_PATH=str(project / token))
            assert done.returncode == 1 and done.stdout == "", (command, done)
            assert done.stderr.splitlines()[-1].startswith(f"error: {words}") and "Traceback" not in done.stderr
        with pytest.raises(RunError, match=words):
            JobServer(address, "0" * 64 if token == "wrong" else "", cluster.path).stop(job)
    assert not (project / "runs").exists()
    with job_server(cluster) as server:
        assert server.state(job).status in ("PENDING", "RUNNING")
        assert {state.id for state in server.states()} == before
    stopped = cli("stop", job, "--cluster", cluster.path)
    assert stopped.returncode == 0 and "stopped" in stopped.stdout


def test_a_secret_in_the_configuration_is_refused(project: Path, cluster: ClusterFile, cli: Cli) -> None:
    (project / "secret.yaml").write_text((CONFIG % (0, "runs/secret")) + 'primary: ["${TRACKER_API_TOKEN}"]\n')
    done = cli("submit", "secret.yaml", "--cluster", cluster.path)
    assert done.returncode == 1 and "TRACKER_API_TOKEN looks like a secret" in done.stderr
    assert PLANTED["TRACKER_API_TOKEN"] not in done.stderr + done.stdout


def test_a_planted_secret_is_found_nowhere(project: Path, cluster: ClusterFile, cli: Cli, home: Path, environment: dict[str, str]) -> None:
    """Neither what stood in the environment of sender and cluster, nor the cluster's token outside its own file."""
    done = cli("submit", configure(project, "searched", 0), "--cluster", cluster.path)
    assert done.returncode == 0, done
    token = token_file(cluster).read_text().strip()
    secrets = [value.encode() for value in PLANTED.values()] + [token.encode()]
    assert not [value for value in secrets if value.decode() in done.stdout + done.stderr]
    with job_server(cluster) as server:
        listing = server._call("GET", "/api/jobs/") or b""
    assert b"own-model" in listing and not [value for value in secrets if value in listing]
    own = token_file(cluster)
    searched = 0
    for root in (home, project, Path(read_state(cluster.name)["temp"])):
        for path in (path for path in root.rglob("*") if path.is_file() and path != own):
            content = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    content += b"".join(archive.read(name) for name in archive.namelist())
            assert not [value for value in secrets if value in content], path
            searched += 1
    assert searched > 400  # the uploaded package among them
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        assert not [value for value in secrets if value in command]
    assert oct(own.stat().st_mode)[-3:] == "600"
    records = list((home / ".fgray/jobs").glob("*.json"))
    assert records and {oct(path.stat().st_mode)[-3:] for path in records} == {"600"}
