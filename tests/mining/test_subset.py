from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fgray.config.schema import NamedConfig
from fgray.data.index import ImageIndex, open_images
from fgray.mining.filters import build_filters
from fgray.mining.subset import subset, subset_sides
from tests.mining.small_sides import KINDS, full_candidates, small_resources, small_sides
from tests.small_data import write_picture

IMAGES = [f"p{number}" for number in range(9)]
TEXTS = ["A cat sat", "a cat sat.", "a dog", "a dog runs", "blue sky", "dog a", "lost words", "sky, blue", "the sea", "two boats"]
LINKS = [(0, 0), (1, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 7), (6, 8), (7, 9), (7, 3)]
LABELS = ["x", None, "x", "y", "y", None, "x", None, None]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    root = tmp_path_factory.mktemp("pictures")
    for number, key in enumerate(IMAGES):
        write_picture(root / f"{key}.jpg", number % 4)  # some are copies of others
    return open_images(str(root))


@pytest.mark.parametrize("direction", KINDS)
def test_filters_decide_alike_on_a_part_of_the_sides(direction: str, index: ImageIndex, tmp_path: Path) -> None:
    names = ["same_image", "same_caption", "other_captions", "same_label", "near_duplicate_images", "near_duplicate_texts"]
    chain = build_filters([NamedConfig(name=name) for name in names], [direction])
    sides = small_sides(direction, IMAGES, TEXTS, LINKS, LABELS, index)
    candidates = full_candidates(sides)
    anchors, corpus = np.array([0, 2, 3, 7]), np.array([0, 1, 3, 4, 5, 8])
    few = candidates.take(np.isin(candidates.anchor, anchors) & np.isin(candidates.corpus, corpus))
    positives = np.unique(few.positive[few.positive >= 0])
    part = subset_sides(sides, anchors, positives, corpus)
    renumbered = replace(few, anchor=np.searchsorted(anchors, few.anchor), corpus=np.searchsorted(corpus, few.corpus))
    if len(positives):
        renumbered = replace(renumbered, positive=np.where(few.positive >= 0, np.searchsorted(positives, few.positive), -1))
    resources = small_resources(tmp_path)
    verdicts = []
    for name, built in chain:
        expected = built.keep(few, sides, resources)
        np.testing.assert_array_equal(built.keep(renumbered, part, resources), expected, err_msg=name)
        verdicts.append(expected)
    assert sum(not keep.all() for keep in verdicts) >= 4  # most filters have something to drop here


def test_places_follow_the_rows(tmp_path: Path) -> None:
    for number in range(6):
        write_picture(tmp_path / f"{number // 3}" / f"p{number}.jpg", number)
    side = small_sides("image_to_image", IMAGES[:6], [], []).corpus
    one, other = (open_images(str(tmp_path / part)) for part in "01")
    side = replace(side, places=((one, IMAGES[:3]), (other, IMAGES[3:6])))
    for rows in ([0, 5], [1, 2, 3], [4], []):
        part = subset(side, np.array(rows, np.int64))
        assert list(part.keys) == [f"p{number}" for number in rows]
        assert [key for _, keys in part.places for key in keys] == list(part.keys)
        read = [data for where, keys in part.places for data in where.read(where.locate(list(keys)))]
        assert read == [(tmp_path / f"{number // 3}" / f"p{number}.jpg").read_bytes() for number in rows]
        assert part.images.indices.tolist() == rows
