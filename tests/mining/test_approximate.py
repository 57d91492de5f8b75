"""The approximate search with faiss: what it finds is scored exactly, what it misses is measured, its index is built once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgray.embedding import Compute
from fgray.errors import ConfigError, DataError
from fgray.mining import approximate
from fgray.mining.approximate import recall_at_k, recall_on_sample
from fgray.mining.search import Neighbours, search
from fgray.mining.vectors import VectorSet, write_vectors
from tests.mining.oracle import as_kept, best_of, exact_scores, unit_rows

faiss = pytest.importorskip("faiss", reason="extra faiss is not installed")

QUERIES, CORPUS, DIM, K = 150, 3000, 16, 10
COMPUTE = Compute("serial", "cpu", 1, 1, 1, 1, 1)
ALL = {"kind": "ivf", "lists": 8, "probes": 8}  # every list of the index is looked into
GRAPH = {"kind": "hnsw", "effort": 64}


def write(folder: Path, values: np.ndarray) -> VectorSet:
    return write_vectors(str(folder), [f"{row:05d}" for row in range(len(values))], [values], "fp16", 700)


@pytest.fixture(scope="module")
def values() -> tuple[np.ndarray, np.ndarray]:
    return unit_rows(QUERIES, DIM, 1), unit_rows(CORPUS, DIM, 2)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, values) -> tuple[VectorSet, VectorSet]:
    folder = tmp_path_factory.mktemp("sets")
    return write(folder / "q", values[0]), write(folder / "c", values[1])


@pytest.fixture(scope="module")
def scores(values) -> np.ndarray:
    """Every score in units of 2^-52."""
    return exact_scores(*(as_kept(part, "fp16") for part in values))


def find(sets, store: Path, options: dict | None = None, k: int = K, **more) -> Neighbours:
    return search(*sets, k, str(store), COMPUTE, index="faiss", options=options, **more)


def answer(found: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = zip(*((rows, scores) for _, rows, scores in found.blocks()), strict=True)
    return np.concatenate(rows), np.concatenate(scores)


def share_found(rows: np.ndarray, exact: np.ndarray) -> float:
    return sum(len(set(own) & set(best)) for own, best in zip(rows.tolist(), exact.tolist(), strict=True)) / exact.size


def test_all_lists_looked_into_is_exact(tmp_path: Path, sets, scores: np.ndarray) -> None:
    rows, found = answer(find(sets, tmp_path, ALL))
    expected = best_of(scores, K)
    np.testing.assert_array_equal(rows, expected[0])
    assert found.tobytes() == expected[1].tobytes()


@pytest.mark.parametrize(("options", "least", "most"), [({"lists": 50, "probes": 3}, 0.1, 0.9), (GRAPH, 0.9, 1), ({}, 0.7, 1)])
def test_what_is_found_is_scored_exactly_and_what_is_missed_is_measured(
    tmp_path: Path, sets, scores: np.ndarray, options: dict, least: float, most: float
) -> None:
    neighbours = find(sets, tmp_path, options)
    rows, found = answer(neighbours)
    assert (rows >= 0).all()
    assert (np.take_along_axis(scores, rows, 1) / 2.0**52).tobytes() == found.tobytes()
    assert all(len(set(own)) == K for own in rows.tolist())
    order = np.diff(found, axis=1)
    assert (order <= 0).all() and (np.diff(rows, axis=1)[order == 0] > 0).all()
    recall = share_found(rows, best_of(scores, K)[0])
    assert least <= recall <= most
    assert recall_on_sample(neighbours, COMPUTE, sample=10**6) == pytest.approx(recall)
    chosen = np.sort(np.random.default_rng(5).choice(QUERIES, 40, replace=False))
    expected = share_found(rows[chosen], best_of(scores, K)[0][chosen])
    assert recall_on_sample(neighbours, COMPUTE, sample=40, seed=5) == pytest.approx(expected)


def test_recall_by_hand() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
    found = np.array([[4, 9, 1, -1], [6, -1, 5, 7], [1, 2, 3, 4]])
    assert recall_at_k(found, exact) == (2 / 4 + 2 / 2) / 2


def test_fewer_than_k(tmp_path: Path, sets, values) -> None:
    """A corpus smaller than k, and an index that finds fewer than there are."""
    few = write(tmp_path / "few", values[1][:6])
    rows, found = answer(find((sets[0], few), tmp_path / "s", {"lists": 2, "probes": 2}, k=9))
    expected = best_of(exact_scores(as_kept(values[0], "fp16"), as_kept(values[1][:6], "fp16")), 9)
    np.testing.assert_array_equal(rows, expected[0])
    assert found.tobytes() == expected[1].tobytes()
    rows, found = answer(find((sets[0], few), tmp_path / "s", {"lists": 6, "probes": 1}, k=6))
    assert (rows[:, 0] >= 0).all() and (rows[:, -1] == -1).any()
    assert (np.isneginf(found) == (rows == -1)).all()
    assert ((rows == -1).cumsum(axis=1) > 0)[rows == -1].all() and (np.diff((rows == -1).astype(int), axis=1) >= 0).all(), "none comes last"


def test_index_and_results_are_kept(tmp_path: Path, sets, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answer(find(sets, tmp_path, GRAPH, rows=np.arange(60)))
    (index,) = tmp_path.rglob("index.faiss")
    before = index.stat().st_mtime_ns
    monkeypatch.setattr(approximate, "_build_index", None)  # would fail if it were called
    more = find(sets, tmp_path, GRAPH)
    assert more.progress.stored == 60
    rows, scores = answer(more)
    np.testing.assert_array_equal(rows[:60], first[0])
    assert scores[:60].tobytes() == first[1].tobytes() and index.stat().st_mtime_ns == before
    monkeypatch.undo()
    find(sets, tmp_path, ALL)
    assert len(list(tmp_path.rglob("index.faiss"))) == 2, "another index for other options"


def test_options_of_the_search_itself_count(tmp_path: Path, sets) -> None:
    """What changes only how the index is asked must not meet results that were found in another way."""
    narrow = answer(find(sets, tmp_path, {"lists": 50, "probes": 1}))[0]
    wide = answer(find(sets, tmp_path, {"lists": 50, "probes": 50}))[0]
    assert (narrow != wide).any()
    assert len(list(tmp_path.rglob("index.faiss"))) == 1, "the index is the same"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nprobe": 3}, "the faiss index has no option 'nprobe' [search.options]: did you mean 'probes'?"),
        ({"gpu": 3}, "the faiss index has no option 'gpu' [search.options]: known: "),
        ({"kind": "pq"}, "option 'kind': Input should be 'ivf' or 'hnsw' [search.options]: ivf: inverted lists around centroids"),
        ({"probes": 0}, "option 'probes': Input should be greater than or equal to 1 [search.options]: ivf: lists that a query looks into"),
        ({"lists": "many"}, "option 'lists': Input should be a valid integer"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, sets, options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find(sets, tmp_path, options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_memory_too_small_is_one_line(tmp_path: Path, sets) -> None:
    with pytest.raises(ConfigError, match=r"index and corpus need 0\.00 GiB \[search.memory_gib\]: raise it, or say index: exact"):
        find(sets, tmp_path, memory_gib=1e-5)


def test_without_faiss_is_one_line(tmp_path: Path, sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"faiss is not installed \[search.index\]: pip install 'fgray\[faiss\]', or say index: exact"):
        find(sets, tmp_path)


def test_damaged_index_is_one_line(tmp_path: Path, sets) -> None:
    find(sets, tmp_path, ALL)
    (index,) = tmp_path.rglob("index.faiss")
    index.write_bytes(index.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"damaged index \[.*index\.faiss\]: delete the file and run the same command again"):
        find(sets, tmp_path, ALL)
