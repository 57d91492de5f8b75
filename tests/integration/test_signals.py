"""A run that is told to stop: quiet, its lock released, no process left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.processes import family

PROJECT = Path(__file__).resolve().parents[2]
ENCODER = """
import time
import numpy as np

class Slow:
    image_size = 32
    def __init__(self, device): pass
    def embed_images(self, pixels):
        time.sleep(0.5)
        return np.ones((len(pixels), 4))
    def embed_texts(self, texts):
        time.sleep(0.5)
        return np.ones((len(texts), 4))
"""
CONFIG = """
job: eval
name: slow
model: {kind: python, path: "slow_encoder:Slow"}
benchmarks: [{name: spec_style, cases: 2}]
compute: {workers: 1, batch_size: 1, unit_rows: 1}
output: run
"""


@pytest.mark.parametrize(("number", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.chaos), (signal.SIGTERM, 143)])
def test_a_run_that_is_told_to_stop(tmp_path: Path, number: int, status: int) -> None:
    (tmp_path / "slow_encoder.py").write_text(ENCODER)
    (tmp_path / "slow.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "fgray", "submit", "slow.yaml"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell inherits an ignored SIGINT, which a person's terminal does not send.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/store/*/embed_*/part-*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    workers = family(process.pid) - {process.pid}
    assert workers
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in errors and "***" not in errors
    assert not (tmp_path / "run" / "lock.json").exists()
    deadline = time.monotonic() + 20
    while left := [pid for pid in workers if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
