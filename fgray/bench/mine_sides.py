"""The sides of the mine suite, each in its own process: ``python -m fgray.bench.mine_sides TASK.json`` (see `fgray.bench.side`).

Imports that belong to one side stand in it, so that no side's memory holds another's libraries.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fgray.bench.side import Turn, peak_bytes, serve

BARE_QUERIES, BARE_ROWS = 1024, 16_384  # the fastest tile of those tried; 64 MiB of scores


def _search_turn(task: dict[str, Any], find: Callable[[slice], npt.NDArray[np.int64]]) -> Turn:
    """Return a turn that times `find` on the next slice of queries and keeps what it found for comparison."""

    def turn(number: int) -> dict[str, Any]:
        size = task["queries"]
        start = time.perf_counter()
        rows = find(slice(number * size, (number + 1) * size))
        seconds, peak = time.perf_counter() - start, peak_bytes()
        np.save(Path(task["folder"]) / f"{task['side']}-{number}.npy", rows)
        return {"seconds": seconds, "peak": peak}

    return turn


def ours(task: dict[str, Any]) -> Turn:
    """Fgray's search, from vectors on disk to committed results that are read back."""
    from fgray.embedding import Compute
    from fgray.mining.search import search
    from fgray.mining.vectors import open_vectors

    folder, compute = task["folder"], Compute("serial", "cpu", 1, 1, 1, 1, task["threads"])
    queries, corpus = open_vectors(f"{folder}/queries"), open_vectors(f"{folder}/corpus")

    def find(which: slice) -> npt.NDArray[np.int64]:
        rows = np.arange(which.start, which.stop)
        found = search(queries, corpus, task["k"], f"{folder}/store", compute, task["memory_gib"], rows)
        return np.concatenate([rows for _, rows, _ in found.blocks()])

    return _search_turn(task, find)


def bare(task: dict[str, Any]) -> Turn:
    """The bare loop: a product per tile, its top-k, merged with the best so far; everything in memory before the clock starts."""
    import torch

    torch.set_num_threads(task["threads"])
    queries, corpus = (torch.from_numpy(np.load(Path(task["folder"]) / f"{name}.npy")) for name in ("queries", "corpus"))
    k = task["k"]

    def find(which: slice) -> npt.NDArray[np.int64]:
        return np.concatenate([_bare_block(block, corpus, k) for block in torch.split(queries[which], BARE_QUERIES)])

    return _search_turn(task, find)


def _bare_block(queries: Any, corpus: Any, k: int) -> npt.NDArray[np.int64]:
    import torch

    scores, rows = torch.empty((len(queries), 0)), torch.empty((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(corpus), BARE_ROWS):
        tile = torch.mm(queries, corpus[start : start + BARE_ROWS].T)
        best = tile.topk(min(k, tile.shape[1]), dim=1)
        scores, rows = torch.cat([scores, best.values], 1), torch.cat([rows, best.indices + start], 1)
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        scores, rows = best.values, rows.gather(1, best.indices)
    found: npt.NDArray[np.int64] = rows.numpy()
    return found


def faiss_flat(task: dict[str, Any]) -> Turn:
    """Search faiss' exact index of inner products, filled before the clock starts."""
    import faiss

    faiss.omp_set_num_threads(task["threads"])
    queries, corpus = (np.load(Path(task["folder"]) / f"{name}.npy") for name in ("queries", "corpus"))
    index = faiss.IndexFlatIP(corpus.shape[1])
    index.add(corpus)
    return _search_turn(task, lambda which: index.search(queries[which], task["k"])[1])


def mine_ours(task: dict[str, Any]) -> Turn:
    """Fgray's mine job, from files of embeddings to the negatives file and the report, in this process."""
    from fgray.config.schema import MineJob
    from fgray.mining.run import mine

    folder = task["folder"]

    def turn(number: int) -> dict[str, Any]:
        settings = {
            "job": "mine",
            "name": "bench",
            "model": {
                "kind": "precomputed",
                "name": "bench",
                "image_embeddings": f"{folder}/images.npy",
                "text_embeddings": f"{folder}/texts.npy",
            },
            "pairs": {"name": "file", "root": f"{folder}/pairs.parquet"},
            "directions": ["text_to_image"],
            "search": {"k": task["k"] + 1, "dtype": task["dtype"], "memory_gib": task["memory_gib"]},
            "filters": [
                "same_image",
                {"name": "range_max", "value": task["k"]},
                {"name": "relative_margin", "value": task["relative_margin"]},
                {"name": "num_negatives", "value": task["num_negatives"]},
            ],
            "audit": None,
            "compute": {"runner": "serial", "device": "cpu", "workers": 1, "threads": task["threads"]},
            "output": f"{folder}/run-{number}",
        }
        start = time.perf_counter()
        result = mine(MineJob.model_validate(settings))
        seconds, peak = time.perf_counter() - start, peak_bytes()
        return {"seconds": seconds, "peak": peak, "negatives": f"{result.uri}/negatives.parquet"}

    return turn


def mine_theirs(task: dict[str, Any]) -> Turn:
    """sentence-transformers' ``mine_hard_negatives`` with a model whose embeddings are read from the cache."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    torch.set_num_threads(task["threads"])
    if task["use_faiss"]:
        import faiss

        faiss.omp_set_num_threads(task["threads"])
    folder = Path(task["folder"])

    class Cached(SentenceTransformer):
        """Answers with the stored embeddings; the texts come once each and in the order of the files."""

        def encode_query(self, inputs: Any, *_: Any, **options: Any) -> Any:
            return self._read("texts", inputs)

        def encode_document(self, inputs: Any, *_: Any, **options: Any) -> Any:
            return self._read("images", inputs)

        def get_embedding_dimension(self) -> int:
            return int(task["dim"])

        def _read(self, name: str, inputs: list[str]) -> npt.NDArray[np.float32]:
            values: npt.NDArray[np.float32] = np.load(folder / f"{name}.stored.npy")
            assert len(values) == len(inputs)
            return values

    # The rows are of unit length: with the dot product it need not normalise them again.
    model = Cached(modules=[torch.nn.Identity()], similarity_fn_name="dot", device="cpu")
    pairs = pq.read_table(folder / "pairs.parquet")
    given = Dataset.from_dict({"anchor": pairs["text"].to_pylist(), "positive": pairs["image"].to_pylist()})
    del pairs

    def turn(number: int) -> dict[str, Any]:
        start = time.perf_counter()
        mined = mine_hard_negatives(
            given,
            model,
            range_max=task["k"],
            relative_margin=task["relative_margin"],
            num_negatives=task["num_negatives"],
            output_format="labeled-list",  # the fastest that keeps every negative
            output_scores=True,
            use_faiss=task["use_faiss"],
            verbose=False,
        )
        seconds, peak = time.perf_counter() - start, peak_bytes()
        file = folder / f"{task['side']}-{number}.parquet"
        columns = {"anchor": mined["anchor"][:], "negatives": [row[1:] for row in mined["positive"][:]]}
        pq.write_table(pa.table(columns), file)
        return {"seconds": seconds, "peak": peak, "negatives": str(file)}

    return turn


SIDES = {
    "ours": ours,
    "bare": bare,
    "faiss": faiss_flat,
    "mine_ours": mine_ours,
    "mine_theirs": mine_theirs,
    "mine_theirs_faiss": mine_theirs,
}


if __name__ == "__main__":
    serve(SIDES, sys.argv[1])
