"""Layouts as geometry: many seeds, all cut-outs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fgray.synthesis.bank import load_bank
from fgray.synthesis.compose import choose_objects, pair_up
from fgray.synthesis.layout import LAYOUTS, countable

SUBSETS = {"absolute_size": 3, "relative_size": 3, "absolute_spatial": 9, "relative_spatial": 4, "existence": 2, "count": 9}


@pytest.mark.parametrize("subset", SUBSETS)
def test_objects_stay_inside_the_inner_seven_eighths_and_apart(subset: str) -> None:
    bank = load_bank()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        a, b = (bank.cut_outs[i] for i in rng.choice(len(bank.cut_outs), size=2, replace=False))
        if subset == "count" and not countable(a):
            continue
        case = LAYOUTS[subset](rng, a, b)
        assert len(case.texts) == len(case.scenes) == len(set(case.texts)) == SUBSETS[subset]
        for scene in case.scenes:
            boxes = [paste.box for paste in scene]
            for left, top, width, height in boxes:
                assert min(left, top) >= 28 - 1 and left + width <= 420 + 1 and top + height <= 420 + 1
                if subset == "count":
                    assert min(width, height) >= 48
            for one, two in itertools.combinations(boxes, 2):
                across = max(one[0], two[0]) - min(one[0] + one[2], two[0] + two[2])
                down = max(one[1], two[1]) - min(one[1] + one[3], two[1] + two[3])
                assert max(across, down) >= 10


def test_pairs_differ_in_category_and_use_every_cut_out_once() -> None:
    bank = load_bank()
    drawn = [pair_up(bank.cut_outs, np.random.default_rng(seed), bank.may_meet) for seed in range(300)]
    for pairs in drawn:
        assert all(a.category != b.category for a, b in pairs)
        used = [one.file for pair in pairs for one in pair]
        assert len(used) == len(set(used)) == len(bank.cut_outs)
    assert len({tuple(one.file for pair in pairs for one in pair) for pairs in drawn}) > 290


def test_counted_objects_are_large_enough_whatever_the_seed() -> None:
    for seed in range(50):
        pairs = pair_up(load_bank().cut_outs, np.random.default_rng(seed), load_bank().may_meet)
        assert all(countable(choose_objects(pairs, number, "count")[0]) for number in range(40))
