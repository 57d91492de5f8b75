"""Sides and candidates of small worlds, built from plain lists, for tests of filters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from fgray.config.schema import TinyModel
from fgray.data.index import ImageIndex
from fgray.embedding import Compute
from fgray.mining.candidates import Candidates, Side, Sides
from fgray.mining.resources import Resources
from fgray.models import open_model

COMPUTE = Compute(runner="serial", device="cpu", workers=1, decode_workers=1, batch_size=8, unit_rows=16, threads=1)
KINDS = {
    "image_to_text": ("image", "text"),
    "text_to_image": ("text", "image"),
    "image_to_image": ("image", "image"),
    "text_to_text": ("text", "text"),
}


def matrix(rows: int, columns: int, cells) -> sparse.csr_matrix:
    dense = np.zeros((rows, columns), bool)
    for row, column in cells:
        dense[row, column] = True
    return sparse.csr_matrix(dense)


def small_sides(
    direction: str,
    images: Sequence[str],
    texts: Sequence[str],
    links: Sequence[tuple[int, int]],
    labels: Sequence[str | None] | None = None,
    index: ImageIndex | None = None,
) -> Sides:
    """Return the sides of a direction.

    Args:
        direction: which.
        images, texts: keys, sorted.
        links: (image number, text number).
        labels: of each image.
        index: where the images lie.
    """
    labels = labels or [None] * len(images)
    names = sorted({label for label in labels if label is not None})
    of_image = [(i, names.index(label)) for i, label in enumerate(labels) if label is not None]
    of_text = [(t, names.index(labels[i])) for i, t in links if labels[i] is not None]
    image = Side(
        "image",
        images,
        matrix(len(images), len(images), [(i, i) for i in range(len(images))]),
        matrix(len(images), len(names), of_image),
        ((index, images),) if index is not None else (),
    )
    text = Side("text", texts, matrix(len(texts), len(images), [(t, i) for i, t in links]), matrix(len(texts), len(names), of_text))
    anchors, corpus = ({"image": image, "text": text}[kind] for kind in KINDS[direction])
    return Sides(anchors, corpus, image, text, corpus if anchors.kind != corpus.kind else None)


def full_candidates(sides: Sides, seed: int = 0, rows: Sequence[tuple[int, int]] | None = None) -> Candidates:
    """Return every corpus item as a candidate of every row, with random scores in descending order.

    Args:
        sides: of a direction.
        seed: of the scores.
        rows: (anchor, positive) of each row; default: one row per anchor, with its first linked positive if there is one.
    """
    rng = np.random.default_rng(seed)
    width = len(sides.corpus.keys)
    if rows is None:
        shared = (sides.anchors.images.astype(int) @ sides.corpus.images.astype(int).T).toarray() > 0
        rows = [(a, int(np.flatnonzero(shared[a])[0]) if shared[a].any() and sides.positives else -1) for a in range(len(shared))]
    scores = -np.sort(-rng.uniform(-1, 1, (len(sides.anchors.keys), width)), axis=1)
    order = np.stack([rng.permutation(width) for _ in sides.anchors.keys])
    anchor = np.array([a for a, _ in rows], np.int64)
    positive = np.array([p for _, p in rows], np.int64)
    own = np.where(positive >= 0, rng.uniform(-1, 1, len(rows)), np.nan)
    score = scores[anchor].ravel()
    return Candidates(
        row=np.repeat(np.arange(len(rows)), width),
        anchor=np.repeat(anchor, width),
        positive=np.repeat(positive, width),
        corpus=order[anchor].ravel(),
        score=score,
        rank=np.tile(np.arange(1, width + 1, dtype=np.int32), len(rows)),
        margin=np.repeat(own, width) - score,
    )


def hand_made(rows: dict[int, list[float]], positive: dict[int, float] | None = None) -> Candidates:
    """Return candidates from row -> scores in descending order; row r has anchor r, candidates count through the corpus."""
    positive = positive or {}
    flat = [(row, place, score) for row, scores in rows.items() for place, score in enumerate(scores)]
    row = np.array([r for r, _, _ in flat], np.int64)
    score = np.array([s for _, _, s in flat])
    return Candidates(
        row=row,
        anchor=row.copy(),
        positive=np.where([r in positive for r in row], row, -1),
        corpus=np.arange(len(flat)),
        score=score,
        rank=np.array([p + 1 for _, p, _ in flat], np.int32),
        margin=np.array([positive.get(r, np.nan) for r in row]) - score,
    )


def small_resources(store, source=None) -> Resources:
    return Resources(source or open_model(TinyModel(kind="tiny")), str(store), COMPUTE, 10**7)
