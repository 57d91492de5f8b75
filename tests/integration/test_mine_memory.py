"""The mine job within a stated memory, killed in the middle and resumed: a million images, fifty thousand captions (`make memory`).

Memory is what all processes of the job hold together, Ray's and the object store's pages included: the sum of their proportional set
sizes, sampled. Where systemd runs, a hard limit is one word more: ``systemd-run --user --scope -p MemoryMax=4G make memory``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.chaos import _descendants, _reap
from tests.integration.processes import family

PROJECT = Path(__file__).resolve().parents[2]
LIMIT = 4 << 30
DIM, K, CHUNK = 128, 50, 50_000
SAMPLE = 200  # captions whose neighbours are looked up in float64
INTERVAL = 0.1  # seconds between samples
CONFIG = """
job: mine
name: memory
model: {{kind: precomputed, name: made up, image_embeddings: {data}/images.npy, text_embeddings: {data}/texts.npy}}
pairs: {{name: file, root: {data}/pairs.parquet}}
corpus: {{name: file, root: {data}/corpus.parquet}}
directions: [text_to_image]
search: {{k: {k}, dtype: fp16, memory_gib: 0.75}}
filters: [same_image]
audit: null
compute: {{workers: 2}}
output: {output}
"""

pytestmark = pytest.mark.timeout(5400)


class Job:
    """The command, its output and the memory of its processes."""

    def __init__(self, data: Path, output: Path) -> None:
        self.output, self.config, self.log = output, output.with_suffix(".yaml"), output.with_suffix(".log")
        self.config.write_text(CONFIG.format(data=data, k=K, output=output))
        self.peak = 0

    def run(self, kill_after: int | None = None) -> bool:
        """Run the command; with `kill_after`, kill it once so many units of the search are committed. Return whether it was killed."""
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "fgray", "submit", str(self.config)]
            process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process.pid, over))
        watcher.start()
        try:
            while process.poll() is None and (kill_after is None or len(self.parts()) < kill_after):
                time.sleep(0.02)
            killed = process.poll() is None
            if killed:
                children = _descendants(process.pid)
                os.killpg(process.pid, signal.SIGKILL)
                _reap(children)  # Ray's workers are no members of the group
        finally:
            over.set()
            watcher.join()
            _reap([process.pid, *_descendants(process.pid)])
        assert killed or process.wait() == 0, self.log.read_text()[-3000:]
        return killed

    def parts(self) -> list[Path]:
        return sorted(self.output.glob("store/*/topk/part-*.parquet"))

    def negatives(self) -> pa.Table:
        return pq.read_table(self.output / "negatives.parquet")

    def _watch(self, pid: int, over: threading.Event) -> None:
        while not over.wait(INTERVAL):
            self.peak = max(self.peak, sum(proportional_set_size(member) for member in family(pid)))


def proportional_set_size(pid: int) -> int:
    """Return the bytes that a process holds; a page shared by n processes counts 1/n in each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def unit(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return the vectors of these row numbers: unit length, of few directions, so that scores spread."""
    basis = np.random.default_rng(99).standard_normal((16, DIM))
    parts = []
    for first in np.unique(rows // CHUNK):
        draw = np.random.default_rng([seed, int(first)])
        values = draw.standard_normal((CHUNK, 16)) @ basis + 2 * draw.standard_normal((CHUNK, DIM))
        parts.append(values[rows[rows // CHUNK == first] - first * CHUNK])
    values = np.concatenate(parts)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def write_data(folder: Path, corpus: int, queries: int) -> Path:
    folder.mkdir()
    images, texts = [f"image {row:07d}" for row in range(corpus)], [f"caption {row:07d}" for row in range(queries)]
    for name, keys, seed in (("images", images, 1), ("texts", texts, 2)):
        values = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (len(keys), DIM))
        for start in range(0, len(keys), CHUNK):
            values[start : start + CHUNK] = unit(np.arange(start, min(start + CHUNK, len(keys))), seed)
        values.flush()
        (folder / f"{name}.keys.txt").write_text("\n".join(keys) + "\n")
    pq.write_table(pa.table({"image": images[:queries], "text": texts}), folder / "pairs.parquet")
    pq.write_table(pa.table({"image": images, "text": pa.nulls(corpus, pa.string())}), folder / "corpus.parquet")
    return folder


def stored(values: np.ndarray) -> np.ndarray:
    """Return what fp16 keeps of vectors normalised in float64."""
    wide = values.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32).astype(np.float16).astype(np.float64)


def check_against_float64(table: pa.Table, corpus: int, queries: int) -> None:
    sample = np.unique(np.linspace(0, queries - 1, SAMPLE).astype(np.int64))
    wanted = stored(unit(sample, 2))
    scores = np.empty((len(sample), corpus))
    for start in range(0, corpus, CHUNK):
        rows = np.arange(start, min(start + CHUNK, corpus))
        scores[:, rows] = wanted @ stored(unit(rows, 1)).T
    assert table["anchor"].to_pylist() == [f"caption {row:07d}" for row in range(queries)]
    for row, own in zip(sample.tolist(), scores, strict=True):
        best = np.argsort(-own, kind="stable")[:K]
        expected = [(f"image {place:07d}", own[place], rank + 1) for rank, place in enumerate(best.tolist()) if place != row]
        found = [(negative["ref"], negative["score"], negative["rank"]) for negative in table["negatives"][row].as_py()]
        assert found == expected


@pytest.mark.parametrize(
    ("corpus", "queries", "kill_after"),
    [
        pytest.param(30_000, 20_000, 2, marks=pytest.mark.chaos, id="small"),
        pytest.param(1_000_000, 50_000, 15, marks=pytest.mark.memory, id="full"),
    ],
)
def test_killed_and_resumed_within_memory(tmp_path: Path, corpus: int, queries: int, kill_after: int) -> None:
    job = Job(write_data(tmp_path / "data", corpus, queries), tmp_path / "run")
    start = time.monotonic()
    assert job.run(kill_after), "the run was over before the kill"
    before = {path: path.stat().st_mtime_ns for path in job.parts()}
    killed = time.monotonic() - start
    job.run()
    seconds = time.monotonic() - start
    peak, total = job.peak / 2**30, len(job.parts())
    print(
        f"{corpus:,} x {queries:,}: peak {peak:.2f} GiB, {seconds:.0f} s, killed after {killed:.0f} s with {len(before)} of {total} units"
    )
    assert kill_after <= len(before) < total
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was committed is not computed again"
    assert job.peak <= LIMIT
    check_against_float64(job.negatives(), corpus, queries)


@pytest.mark.slow
def test_sampler_sees_what_a_process_takes() -> None:
    code = "import sys; held = bytearray(300 << 20); held[::4096] = b'x' * (300 << 8); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert 300 << 20 <= proportional_set_size(process.pid) <= 330 << 20
        process.kill()
    assert proportional_set_size(process.pid) == 0
