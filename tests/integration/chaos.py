"""Kills a running evaluation in one way or another, runs the same command again, and tells what became of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.chaos_encoder import CALLS
from tests.small_data import spec_items, write_spec

PROJECT = Path(__file__).resolve().parents[2]
KINDS = ("actor", "commit", "raylet", "driver")
UNIT_ROWS = 8
WORKERS = 2
CASES = 8
CONFIG = """
job: eval
name: chaos
model: {{kind: python, path: "tests.integration.chaos_encoder:ChaosEncoder"}}
data: {{root: {data}}}
benchmarks: [{{name: spec, subsets: [existence, relative_size, count]}}]
compute: {{workers: {workers}, decode_workers: 1, batch_size: {rows}, unit_rows: {rows}}}
stats: {{resamples: 200}}
output: {output}
"""


def total_units() -> int:
    items = spec_items(CASES)
    return 2 * -(-items // UNIT_ROWS)


@dataclass
class Kill:
    kind: str
    after: float  # seconds since the start of the first command
    committed: int  # parts in the store
    in_commit: bool  # a part was being written


@dataclass
class Outcome:
    kills: list[Kill]
    runs: int  # commands until one succeeded
    calls: int  # model calls over all runs; one per unit
    metrics: bytes
    samples: bytes
    touched: list[str]  # parts that were there at a kill and are not the same file at the end


class Evaluation:
    """One output folder and the command that fills it."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.output, self.calls, self.config = folder / "run", folder / "calls", folder / "chaos.yaml"
        self.calls.mkdir(parents=True)
        self.config.write_text(CONFIG.format(data=data, output=self.output, rows=UNIT_ROWS, workers=WORKERS))
        self.log = folder / "log.txt"

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, CALLS: str(self.calls), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "fgray", "submit", str(self.config)]
            return subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)

    def parts(self) -> list[Path]:
        return sorted(self.output.glob("store/*/embed_*/part-*.parquet"))

    def temporaries(self) -> list[Path]:
        return list(self.output.glob("store/*/embed_*/.fgray-*"))

    def model_pids(self) -> list[int]:
        return [int(path.name) for path in self.calls.iterdir() if _command(int(path.name)).startswith("ray::")]

    def count_calls(self) -> int:
        return sum(len(path.read_text().splitlines()) for path in self.calls.iterdir())


def run_and_kill(folder: Path, data: Path, kills: Sequence[tuple[str, int]]) -> Outcome:
    """Start the evaluation, kill each kind once that many units are committed, and repeat the command until it succeeds."""
    evaluation, start = Evaluation(folder, data), time.monotonic()
    done: list[Kill] = []
    before: dict[Path, tuple[int, int, str]] = {}
    family: list[int] = []
    process, runs = evaluation.start(), 1
    try:
        for kind, after_units in kills:
            while len(evaluation.parts()) < after_units or not evaluation.model_pids():
                if (status := process.poll()) is not None:
                    assert status != 0 and done and runs < 4, evaluation.log.read_text()[-3000:]
                    _reap(family)
                    process, runs = evaluation.start(), runs + 1
                time.sleep(0.002)
            in_commit = _wait_for_commit(evaluation, process) if kind == "commit" else False
            before |= {path: _state(path) for path in evaluation.parts() if path not in before}
            done.append(Kill(kind, time.monotonic() - start, len(evaluation.parts()), in_commit))
            family = _descendants(process.pid)
            _kill(kind, process, evaluation, family)
            if kind in ("raylet", "driver"):
                process.wait(timeout=180)
        while process.wait(timeout=180) != 0:
            _reap(family)
            process, runs = evaluation.start(), runs + 1
            assert runs <= 1 + len(kills), evaluation.log.read_text()[-3000:]
    finally:
        _reap([process.pid, *_descendants(process.pid)])
    touched = [path.name for path, state in before.items() if not path.exists() or _state(path) != state]
    results = [(evaluation.output / name).read_bytes() for name in ("metrics.json", "samples.parquet")]
    return Outcome(done, runs, evaluation.count_calls(), *results, touched)


def run_undisturbed(folder: Path, data: Path) -> Evaluation:
    evaluation = Evaluation(folder, data)
    process = evaluation.start()
    assert process.wait(timeout=180) == 0, evaluation.log.read_text()
    return evaluation


def make_data(folder: Path) -> Path:
    return write_spec(folder, cases=CASES)


def _wait_for_commit(evaluation: Evaluation, process: subprocess.Popen[bytes]) -> bool:
    """Return once the model workers are stopped in the middle of writing a part (or the run ends before that is seen)."""
    while process.poll() is None:
        if evaluation.temporaries():
            pids = evaluation.model_pids()
            for pid in pids:
                _signal(pid, signal.SIGSTOP)
            time.sleep(0.01)
            if evaluation.temporaries():
                return True
            for pid in pids:
                _signal(pid, signal.SIGCONT)
    return False


def _kill(kind: str, process: subprocess.Popen[bytes], evaluation: Evaluation, family: list[int]) -> None:
    if kind == "driver":
        process.kill()
    elif kind == "raylet":
        for pid in family:
            if "raylet/raylet" in _command(pid):
                _signal(pid, signal.SIGKILL)
    else:
        pids = evaluation.model_pids()
        for pid in pids if kind == "commit" else pids[:1]:
            _signal(pid, signal.SIGKILL)


def _state(path: Path) -> tuple[int, int, str]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, hashlib.sha256(path.read_bytes()).hexdigest()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap(pids: list[int]) -> None:
    """Kill what is left of a run that this harness started."""
    for pid in pids:
        _signal(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        try:
            tasks = [task for task in Path(f"/proc/{parent}/task").iterdir()]
            children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:
            continue
        found += children
        queue += children
    return found
