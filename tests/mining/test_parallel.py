"""Threads share a unit's queries: the same answers as NumPy's in float64, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fgray.engine.stages import thread_limit
from fgray.mining.parallel import top_k_threads
from fgray.mining.screen import Corpus

DIM = 24


def vectors(rows: int, seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal((rows, DIM))
    return torch.from_numpy((values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16))


@pytest.fixture(autouse=True)
def threads_left_as_they_were() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("queries", [1, 2, 7, 301])
def test_as_in_float64(threads: int, queries: int) -> None:
    asked, corpus = vectors(queries, 1), torch.cat([vectors(900, 2), vectors(300, 2)])  # 300 rows stand twice
    scores = asked.double().numpy() @ corpus.double().numpy().T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    with thread_limit(threads):
        rows, found = top_k_threads(asked, Corpus(corpus), 20)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, expected, 1))


def test_rows_are_read_once_while_all_threads_search() -> None:
    asked, corpus = vectors(50, 1), vectors(1000, 2)
    held, calls = torch.full_like(corpus, torch.nan), []

    def ready() -> Iterator[tuple[int, int]]:
        for start in range(0, 1000, 300):
            calls.append(start)
            held[start : start + 300] = corpus[start : start + 300]
            yield start, min(start + 300, 1000)

    scores = asked.double().numpy() @ corpus.double().numpy().T
    with thread_limit(3):
        rows, _ = top_k_threads(asked, Corpus(held), 5, ready())
    np.testing.assert_array_equal(rows, np.argsort(-scores, axis=1, kind="stable")[:, :5])
    assert calls == [0, 300, 600, 900]


@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_products_in_full_precision_whatever_the_process_chose(chosen: str) -> None:
    gpu, cpu, seen = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, []

    def ready() -> Iterator[tuple[int, int]]:
        seen.append((gpu.fp32_precision, cpu.fp32_precision, gpu.allow_fp16_reduced_precision_reduction, gpu.allow_fp16_accumulation))
        yield 0, 100

    torch.set_float32_matmul_precision(chosen)
    before = gpu.fp32_precision, cpu.fp32_precision
    try:
        with thread_limit(2):
            top_k_threads(vectors(10, 1), Corpus(vectors(100, 2)), 5, ready())
        assert seen == [("ieee", "ieee", False, False)]
        assert (gpu.fp32_precision, cpu.fp32_precision) == before and torch.get_float32_matmul_precision() == chosen
        assert gpu.allow_fp16_reduced_precision_reduction, "torch's default"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_failure_to_read_is_raised() -> None:
    def ready() -> Iterator[tuple[int, int]]:
        yield 0, 50
        raise OSError("the disk is gone")

    with thread_limit(2), pytest.raises(OSError, match="the disk is gone"):
        top_k_threads(vectors(10, 1), Corpus(vectors(100, 2)), 5, ready())
