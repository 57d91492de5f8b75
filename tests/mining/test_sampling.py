from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgray.mining.sampling import sample_rows, take_sample
from fgray.mining.vectors import write_vectors
from tests.mining.small_sides import small_sides

# Text t describes images t // 2 and, where t is a multiple of 3, the next one as well; the last two texts describe none.
IMAGES = [f"i{number:02d}" for number in range(31)]
TEXTS = [f"t{number:02d}" for number in range(62)]
LINKS = [(t // 2, t) for t in range(60)] + [(t // 2 + 1, t) for t in range(0, 60, 3)]


def described(text: int) -> set[int]:
    return {image for image, t in LINKS if t == text}


@pytest.mark.parametrize("count", [1, 5, 40])
def test_rows_of_texts_are_disjoint_in_images(count: int) -> None:
    sides = small_sides("text_to_image", IMAGES, TEXTS, LINKS)
    anchor, positive = (np.array(column) for column in zip(*[(t, i) for i, t in LINKS], strict=True))
    rows = sample_rows(sides, anchor, positive, count, 3)
    seen: list[int] = []
    for row in rows:
        assert anchor[row] < 60  # a text without an image has no known false negative
        seen += described(int(anchor[row]))
    assert len(seen) == len(set(seen))
    assert rows.tolist() == sorted(set(rows.tolist()))
    if count == 40:  # all that fit: every text left over shares an image with one that was chosen
        assert len(rows) < 40
        assert all(described(text) & set(seen) for text in range(60))
    else:
        assert len(rows) == count


def test_the_choice_follows_seed_and_keys_not_numbers() -> None:
    sides = small_sides("image_to_image", IMAGES, TEXTS, LINKS)
    anchor, nothing = np.arange(len(IMAGES)), np.full(len(IMAGES), -1)
    chosen = sample_rows(sides, anchor, nothing, 8, 0)
    names = {IMAGES[at] for at in chosen}
    backwards = sample_rows(sides, anchor[::-1], nothing, 8, 0)
    assert {IMAGES[anchor[::-1][at]] for at in backwards} == names
    assert {IMAGES[at] for at in sample_rows(sides, anchor, nothing, 8, 1)} != names
    fewer = [number for number in range(len(IMAGES)) if number % 3]  # a smaller job: those that remain keep their turn
    kept = [number for number in fewer if IMAGES[number] in names]
    assert set(kept) <= {fewer[at] for at in sample_rows(sides, np.array(fewer), nothing[: len(fewer)], 8, 0)}


def test_a_sample_holds_what_the_search_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(11, 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    stored = write_vectors(str(tmp_path), [f"{number:02d}" for number in range(11)], [vectors], "fp16", block_rows=4)
    neighbours, cosines = rng.integers(0, 50, (11, 3)), rng.uniform(-1, 1, (11, 3))
    blocks = [(first, neighbours[first : first + 5], cosines[first : first + 5]) for first in (0, 5, 10)]
    anchor, positive, scores = np.arange(11).repeat(2), np.arange(22) + 100, rng.uniform(-1, 1, 22)
    rows = np.array([1, 8, 9, 21])  # of anchors 0, 4, 4, 10
    sample = take_sample(rows, anchor, positive, scores, stored, iter(blocks))
    assert sample.anchor.tolist() == [0, 4, 4, 10]
    assert sample.positive.tolist() == [101, 108, 109, 121]
    np.testing.assert_array_equal(sample.positive_score, scores[rows])
    np.testing.assert_array_equal(sample.neighbours, neighbours[[0, 4, 4, 10]])
    np.testing.assert_array_equal(sample.scores, cosines[[0, 4, 4, 10]])
    np.testing.assert_array_equal(sample.vectors, vectors[[0, 4, 4, 10]].astype(np.float16).astype(np.float32))
