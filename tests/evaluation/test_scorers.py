"""Scores of embeddings: exact ties stay exact, and nothing around a pair changes its score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fgray.evaluation.scorers import EmbeddingScores

WIDTH, IMAGES, TEXTS = 384, 300, 501


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    found = {}
    for kind, count in (("image", IMAGES), ("text", TEXTS)):
        rows = random.normal(size=(count, WIDTH))
        found[kind] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    for copy in (3, 250, TEXTS - 1):  # other texts with the very same embedding
        found["text"][copy] = found["text"][7]
    return found


def scorer(vectors: dict[str, np.ndarray]) -> EmbeddingScores:
    rows = {kind: {str(row): row for row in range(len(table))} for kind, table in vectors.items()}
    return EmbeddingScores(vectors, rows, {kind: [None] * len(table) for kind, table in vectors.items()})


def test_scores_are_cosines(vectors: dict[str, np.ndarray]) -> None:
    (found,) = scorer(vectors).pool_scores("image", ["5"], "text", [str(row) for row in range(20)])
    for row in range(20):
        products = [float(x) * float(y) for x, y in zip(vectors["image"][5].tolist(), vectors["text"][row].tolist(), strict=True)]
        assert found[row] == pytest.approx(math.fsum(products), abs=3e-7)


def test_equal_embeddings_tie_exactly_wherever_they_stand_in_a_pool(vectors: dict[str, np.ndarray]) -> None:
    queries, pool = [str(row) for row in range(IMAGES)], [str(row) for row in range(TEXTS)]
    for scores in scorer(vectors).pool_scores("image", queries, "text", pool):
        assert scores[3] == scores[7] == scores[250] == scores[TEXTS - 1]


def test_a_score_does_not_depend_on_the_other_queries_and_candidates(vectors: dict[str, np.ndarray]) -> None:
    model, pool = scorer(vectors), [str(row) for row in range(TEXTS)]
    whole = list(model.pool_scores("image", [str(row) for row in range(IMAGES)], "text", pool))
    (alone,) = model.pool_scores("image", ["260"], "text", pool)
    assert np.array_equal(alone, whole[260])
    (few,) = model.pool_scores("image", ["260"], "text", pool[400:407])
    assert np.array_equal(few, whole[260][400:407])
    (again,) = model.pool_scores("image", ["260"], "text", pool)  # the pool before last
    assert np.array_equal(again, whole[260])
    (same_names,) = model.pool_scores("text", ["260"], "image", pool[:IMAGES])
    assert same_names[3] == model.list_scores("text", ["260"], "image", [["3"]])[0, 0]
    lists = model.list_scores("image", ["3", "260"], "text", [pool[:7], pool[400:407]])
    assert np.array_equal(lists, [whole[3][:7], few])
    assert model.list_scores("text", ["400"], "image", [["260"]])[0, 0] == few[0]
