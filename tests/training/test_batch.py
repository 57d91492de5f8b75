from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgray.training.batch import Batch, place


def numbered_batch(texts: np.ndarray, images: np.ndarray) -> Batch:
    """A batch whose pictures and texts say whose they are; the arguments are bool [B, K] and [B, J]: which negatives there are."""
    size = len(texts)
    captions = [f"caption {i}" for i in range(size)]
    captions += [f"text {i}.{k}" for i in range(size) for k in range(texts.shape[1]) if texts[i, k]]
    colours = [(i, 0, 0) for i in range(size)] + [(i, 1, j) for i in range(size) for j in range(images.shape[1]) if images[i, j]]
    return Batch(
        images=np.array(colours, np.uint8).reshape(-1, 1, 1, 3),
        texts=captions,
        size=size,
        text_index=place(texts),
        image_index=place(images),
        sources=np.zeros(size, np.int64),
        samples=np.arange(size),
    )


def said(batch: Batch) -> list[tuple]:
    """What each anchor brings, read through the index arrays."""
    rows = []
    for i in range(batch.size):
        texts = [None if at < 0 else batch.texts[at] for at in batch.text_index[i]]
        images = [None if at < 0 else tuple(batch.images[at].reshape(-1).tolist()) for at in batch.image_index[i]]
        rows.append((batch.texts[i], tuple(batch.images[i].reshape(-1).tolist()), texts, images, batch.samples[i]))
    return rows


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.integers(1, 10), st.integers(0, 99))
def test_micro_batches_bring_the_same_in_parts(size: int, k: int, j: int, part: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = numbered_batch(rng.random((size, k)) < 0.6, rng.random((size, j)) < 0.6)
    parts = batch.micro(part)
    assert [row for one in parts for row in said(one)] == said(batch)
    assert [one.size for one in parts] == [min(part, size - start) for start in range(0, size, part)]
    assert sum(len(one.images) for one in parts) == len(batch.images)  # nothing is left out or brought twice
    assert sum(len(one.texts) for one in parts) == len(batch.texts)


def test_places_by_hand() -> None:
    there = np.array([[True, False], [False, False], [True, True]])
    assert place(there).tolist() == [[3, -1], [-1, -1], [4, 5]]
    assert place(np.zeros((2, 0), bool)).shape == (2, 0)


def test_micro_batches_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no micro-batches of 0"):
        numbered_batch(np.zeros((2, 1), bool), np.zeros((2, 0), bool)).micro(0)
