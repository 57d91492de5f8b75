"""The Slurm script on one machine: srun and scontrol are stand-ins, Ray is real in one test and a stand-in in the others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
SCRIPT = PROJECT / "cluster" / "slurm.sh"
JOB = "{job: eval, name: s, model: {kind: tiny}, benchmarks: [{name: spec_style, cases: 2}], output: runs/s}\n"
SRUN = '#!/bin/bash\necho "srun $*" >>srun.log\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = "#!/bin/bash\necho node1; echo node2\n"
HOSTNAME = "#!/bin/bash\necho 127.0.1.1 10.0.0.7 fd00::7\n"
# In place of Ray: says how it was called, then runs what comes after `--`, as `ray symmetric-run` does on the head.
RAY = '#!/bin/bash\necho "ray $*"\nwhile [[ $1 != -- ]]; do shift; done; shift\n"$@" || true\n'
# In place of the job: says what it was told, and ends with 3.
ENTRY = """
import json, os, pathlib, sys
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
told = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_ADDRESS", "FGRAY_CLUSTER")}
print("told:", json.dumps({**told, "mode": oct(token.stat().st_mode), "length": len(token.read_text()), "arguments": sys.argv[1:]}))
sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("hostname", HOSTNAME), ("ray", RAY)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "eval.py").write_text(ENTRY)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def run(folder: Path, *arguments: str, before: tuple[str, ...] = (), nodes: int = 2, **more: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).parent
    environment = {
        "PATH": f"{folder}/bin:{beside}:/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(PROJECT), "FGRAY_PYTHON": sys.executable,
        "SLURM_NNODES": str(nodes), "SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_ID": "4242", "SLURM_JOB_NODELIST": "node[1-2]", **more,
    }  # fmt: skip
    command = [*before, "bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=580)


def test_the_script_is_sound_shell():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True)


def test_the_job_is_told_its_cluster_and_its_token_and_its_status_is_the_scripts(folder):
    done = run(folder, "job.yaml", "limit=4", SLURM_GPUS_ON_NODE="1")
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout.partition("told: ")[2])
    assert told["RAY_AUTH_MODE"] == "token" and told["mode"] == "0o100600" and told["length"] == 64
    assert told["RAY_ADDRESS"] == "10.0.0.7:24242"  # the first node's, not its loopback's; a port of this job's own
    node = {"CPU": 2, "GPU": 1}
    expected = {"name": "slurm-4242", "provider": "slurm", "most": {"CPU": 4, "GPU": 2}, "largest": node}
    assert json.loads(told["FGRAY_CLUSTER"]) == {**expected, "nodes": [{"resources": node, "least": 2, "most": 2}], "max_nodes": 2}
    step = (folder / "srun.log").read_text().splitlines()[-1]
    assert "--nodes=2" in step and "--cpus-per-task=2" in step  # a step has one CPU where it does not ask for more
    assert told["arguments"] == ["job.yaml", "limit=4"]
    assert "symmetric-run --address 10.0.0.7:24242 --min-nodes 2 --num-cpus=2 --num-gpus=1 --dashboard-host=127.0.0.1" in done.stdout
    assert not list(folder.glob(".fgray-slurm-*"))  # the token goes with the job


def test_a_ray_that_does_not_start_is_no_success(folder):
    (folder / ".fgray-slurm-4242.status").write_text("0")  # what the run before a requeue left
    (folder / "bin" / "ray").write_text("#!/bin/bash\nexit 0\n")  # as `ray symmetric-run` ends where `ray start` fails
    done = run(folder, "job.yaml")
    assert done.returncode == 1
    assert "error: Ray did not start on all nodes" in done.stderr
    assert not list(folder.glob(".fgray-slurm-*"))


def test_a_configuration_that_is_wrong_starts_nothing(folder):
    (folder / "job.yaml").write_text("job: evil\n")
    done = run(folder, "job.yaml")
    assert done.returncode != 0 and "ray" not in done.stdout
    assert run(folder).returncode == 2
    assert not list(folder.glob(".fgray-slurm-*"))


@pytest.mark.long
@pytest.mark.timeout(600)  # a quarter of a minute alone, minutes beside other work
def test_an_evaluation_runs_through_rays_own_symmetric_run(folder):
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")  # `ray stop`, which it ends with, must see no other Ray
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no right to make a process namespace")
    for name in ("ray", "hostname"):
        (folder / "bin" / name).unlink()
    shutil.copy(PROJECT / "jobs" / "eval.py", folder / "jobs" / "eval.py")
    short = Path(f"/tmp/fgs{os.getpid()}")  # the paths of Ray's sockets must be short
    short.mkdir(mode=0o700)
    try:
        done = run(folder, "job.yaml", before=alone, nodes=1, RAY_TMPDIR=str(short))
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "runs" / "s" / "metrics.json").read_text())["metrics"]
    assert not list(folder.glob(".fgray-slurm-*"))
