"""The gpu_mine suite: the exact search's share of what the device's matrix products allow. Needs neither Ray nor a model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fgray.bench import Row, compare_row
from fgray.bench.ceiling import MATRIX, check_device, matrix_flops, product_flops
from fgray.embedding.compute import device_name
from fgray.errors import ConfigError
from fgray.mining.parallel import top_k_threads
from fgray.mining.screen import Corpus

GOAL = 0.6  # of the ceiling
BLOCK = 65_536  # queries at a time, as many as a unit of the search has on a GPU
TILES = ((16_384, 16_384), (65_536, 4096), (4096, 65_536))  # (corpus rows, queries) of a product with the vectors' own length
SAMPLE = 64  # queries that are searched again in float64


def run(options: Mapping[str, Any], output: str) -> Iterator[Row]:
    """Yield the row of the suite; see `measure` for its options."""
    yield from measure(**options)


def measure(
    queries: int = 1_000_000, corpus: int = 1_000_000, dim: int = 512, k: int = 100, device: str = "cuda", repeats: int = 3
) -> Iterator[Row]:
    """Search random unit vectors in bf16, in memory of the device, and time bare products in turn.

    The ceiling is the fastest bf16 product of the shapes tried: a large square one, and tiles with the vectors' own length.

    Args:
        queries: rows that are searched for.
        corpus: rows that are searched.
        dim: numbers of a vector.
        k: neighbours.
        device: "cuda"; "cpu" only tries the code.
        repeats: interleaved repeats, of which medians are reported.

    Raises:
        ConfigError: there is no such device here, or a number is not positive.
    """
    for name, number in {"queries": queries, "corpus": corpus, "dim": dim, "k": k, "repeats": repeats}.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{name} cannot be '{number}'", where=f"options.{name}", fix="give a whole number from 1 on")
    check_device(device)
    asked, searched = (_unit_rows(rows, dim, seed, device) for seed, rows in enumerate((queries, corpus)))
    search(asked[: min(BLOCK, queries)], searched, k)  # warm-up
    seconds, ceilings = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        found = search(asked, searched, k)
        seconds.append(time.perf_counter() - start)
        ceilings.append(ceiling(queries, corpus, dim, device))
    rate = 2 * queries * corpus * dim / median(seconds) / 1e12
    theirs, shape = median(flops for flops, _ in ceilings) / 1e12, max(ceilings)[1]
    exact, sample = agreement(asked, searched, found, k)
    note = (
        f"bf16, {device_name(device)}, {queries:,} x {corpus:,} x {dim}, k = {k}, {median(seconds):.3g} s, median of {repeats}; "
        f"theirs: bare bf16 products, {shape} the fastest; {exact} of {sample} sampled queries as in float64"
    )
    goal = GOAL if device == "cuda" else None
    yield compare_row("search_vs_ceiling", rate, theirs, "TFLOP/s", more_is_better=True, goal=goal, note=note)


def search(queries: torch.Tensor, corpus: torch.Tensor, k: int) -> npt.NDArray[np.int64]:
    """Return the corpus rows of every query's neighbours, int64 [Q, k], block by block as the engine's units do."""
    held = Corpus(corpus)
    return np.concatenate(
        [top_k_threads(block, held, k)[0] for block in torch.split(queries, BLOCK)]
    )  # results come to the host: all is done


def ceiling(queries: int, corpus: int, dim: int, device: str) -> tuple[float, str]:
    """Return the most floating-point operations per second of the bare products tried, and which shape reached it."""
    found = [(matrix_flops(device), f"{MATRIX[device]}^3")]
    for rows, columns in TILES:
        rows, columns = min(rows, corpus), min(columns, queries)
        found.append((product_flops(rows, columns, dim, device), f"{rows} x {columns} x {dim}"))
    return max(found)


def agreement(queries: torch.Tensor, corpus: torch.Tensor, found: npt.NDArray[np.int64], k: int) -> tuple[int, int]:
    """Return how many of how many sampled queries have the neighbours that NumPy finds in float64, order included."""
    sample = np.linspace(0, len(queries) - 1, min(SAMPLE, len(queries))).astype(np.int64)
    scores = np.empty((len(sample), len(corpus)))
    wanted = queries[torch.from_numpy(sample).to(queries.device)].cpu().double().numpy()
    for start in range(0, len(corpus), BLOCK):
        scores[:, start : start + BLOCK] = wanted @ corpus[start : start + BLOCK].cpu().double().numpy().T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return int((found[sample][:, : best.shape[1]] == best).all(axis=1).sum()), len(sample)


def _unit_rows(rows: int, dim: int, seed: int, device: str) -> torch.Tensor:
    """Return random unit vectors in bf16 on the device, [rows, dim]; on the grid of 2^-26, as stored ones are."""
    generator = torch.Generator(device).manual_seed(seed)
    made = torch.empty((rows, dim), dtype=torch.bfloat16, device=device)
    for start in range(0, rows, BLOCK):
        values = torch.randn(min(BLOCK, rows - start), dim, generator=generator, device=device)
        rounded = torch.nn.functional.normalize(values, dim=1).to(torch.bfloat16).float()
        made[start : start + len(values)] = ((rounded * 2**26).round() / 2**26).to(torch.bfloat16)
    return made
