"""The search of one unit, on a GPU or on several threads of a CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fgray.mining.precision import full_precision
from fgray.mining.screen import Corpus
from fgray.mining.topk import Found, top_k


@full_precision()
def top_k_threads(queries: Tensor, corpus: Corpus, k: int, ready: Iterable[tuple[int, int]] | None = None) -> Found:
    """Return what `top_k` returns, in full precision; on a CPU, torch's number of threads share the queries.

    Each thread searches its own queries with single-threaded products. The screen consists of many short operations, and threads
    inside each of them would wait for one another most of the time, all the more where other processes want the cores.
    """
    threads = min(torch.get_num_threads(), len(queries)) if queries.device.type == "cpu" else 1
    if threads <= 1:
        return top_k(queries, corpus, k, ready)
    spans = _Shared(ready if ready is not None else [(0, len(corpus.vectors))])
    # torch's number of threads belongs to the thread that sets it.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = list(pool.map(lambda part: top_k(part, corpus, k, spans), torch.chunk(queries, threads)))
    rows, scores = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(scores)


class _Shared:
    """Lets several threads go through one iterator, each from its start and at its own pace."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self.source, self.seen = iter(spans), list[tuple[int, int]]()
        self.lock = threading.Lock()
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        at = 0
        while True:
            with self.lock:
                if self.failure is not None:
                    raise self.failure
                if at == len(self.seen):
                    try:
                        self.seen.append(next(self.source))
                    except StopIteration:
                        return
                    except BaseException as error:
                        self.failure = error
                        raise
            yield self.seen[at]
            at += 1
