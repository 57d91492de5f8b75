from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.mining.candidates import Candidates
from fgray.mining.filters import run_chain
from fgray.mining.score_filters import AbsoluteMargin, MaxScore, MinScore, NumNegatives, RangeMax, RangeMin, RelativeMargin
from tests.mining.small_sides import full_candidates, hand_made, small_resources, small_sides

ROWS = {3: [0.9, 0.8, 0.5, 0.1], 4: [0.7, 0.6], 9: [0.3]}


def kept(filter_, candidates: Candidates, sides=None, resources=None) -> list[tuple[int, float]]:
    left = candidates.take(filter_.keep(candidates, sides, resources))
    return list(zip(left.row.tolist(), left.score.tolist(), strict=True))


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        (RangeMin(value=0), [(3, 0.9), (3, 0.8), (3, 0.5), (3, 0.1), (4, 0.7), (4, 0.6), (9, 0.3)]),
        (RangeMin(value=1), [(3, 0.8), (3, 0.5), (3, 0.1), (4, 0.6)]),
        (RangeMax(value=1), [(3, 0.9), (4, 0.7), (9, 0.3)]),
        (RangeMax(value=3), [(3, 0.9), (3, 0.8), (3, 0.5), (4, 0.7), (4, 0.6), (9, 0.3)]),
        (MinScore(value=0.6), [(3, 0.9), (3, 0.8), (4, 0.7), (4, 0.6)]),
        (MaxScore(value=0.6), [(3, 0.5), (3, 0.1), (4, 0.6), (9, 0.3)]),
        (NumNegatives(value=2), [(3, 0.9), (3, 0.8), (4, 0.7), (4, 0.6), (9, 0.3)]),
    ],
)
def test_bounds_and_ranks_by_hand(filter_, expected):
    assert kept(filter_, hand_made(ROWS)) == expected


def test_ranks_count_what_is_left_in_the_chain():
    # Of row 3 the score bound takes 0.9, so that range_min passes over 0.8.
    chain = [("max_score", MaxScore(value=0.85)), ("range_min", RangeMin(value=1)), ("num_negatives", NumNegatives(value=1))]
    left, dropped = run_chain(chain, hand_made(ROWS), None, None)
    assert list(zip(left.row.tolist(), left.score.tolist(), left.rank.tolist(), strict=True)) == [(3, 0.5, 3), (4, 0.6, 2)]
    assert dropped == {"max_score": 1, "range_min": 3, "num_negatives": 1}


def test_margins_by_hand():
    # Binary fractions, so that the bounds are met exactly: 0.75 - 0.25 = 0.5.
    candidates = hand_made({0: [0.75, 0.5, 0.25], 1: [-0.25, -0.5, -0.75], 2: [0.5]}, {0: 0.75, 1: -0.5})
    assert kept(AbsoluteMargin(value=0.25), candidates) == [(0, 0.5), (0, 0.25), (1, -0.75)]
    assert kept(AbsoluteMargin(value=-0.25), candidates) == [(0, 0.75), (0, 0.5), (0, 0.25), (1, -0.25), (1, -0.5), (1, -0.75)]
    # score <= positive - |positive| / 2: 0.375 and -0.75. A product with the positive would allow -0.25 in row 1.
    assert kept(RelativeMargin(value=0.5), candidates) == [(0, 0.25), (1, -0.75)]


def test_nothing_at_all():
    nothing = hand_made({})
    for filter_ in (RangeMin(value=1), RangeMax(value=1), MinScore(value=0), AbsoluteMargin(value=0), NumNegatives(value=1)):
        assert kept(filter_, nothing) == []


WORLD = ([f"i{n}" for n in range(5)], [f"t{n:02d}" for n in range(30)], [(n % 5, n) for n in range(30)])


def test_random_draws_depend_on_anchor_positive_and_seed_only(tmp_path):
    resources = small_resources(tmp_path)
    sides = small_sides("image_to_text", *WORLD)
    rows = [(0, 0), (0, 5), (1, 1), (2, 2), (3, 3)]
    candidates = full_candidates(sides, rows=rows)
    draw = NumNegatives(value=4, sampling_strategy="random", seed=7)

    def drawn(some: Candidates, filter_=draw, world=sides, seen=resources) -> dict[tuple[str, str], list[str]]:
        left = some.take(filter_.keep(some, world, seen))
        found: dict[tuple[str, str], list[str]] = {}
        for anchor, positive, corpus in zip(left.anchor, left.positive, left.corpus, strict=True):
            pair = (world.anchors.keys[anchor], world.positives.keys[positive])
            found.setdefault(pair, []).append(world.corpus.keys[corpus])
        return found

    together = drawn(candidates)
    assert all(len(negatives) == 4 for negatives in together.values())
    for row in range(len(rows)):
        alone = candidates.take(candidates.row == row)
        assert drawn(alone) == {pair: negatives for pair, negatives in together.items() if pair in drawn(alone)}
    # Other rows of the sides around it, and a resources object that has met other things before, change nothing.
    images, texts, links = WORLD
    wider = small_sides("image_to_text", ["a", *images], ["s", *texts], [(0, 0), *((i + 1, t + 1) for i, t in links)])
    moved = Candidates(
        candidates.row,
        candidates.anchor + 1,
        candidates.positive + 1,
        candidates.corpus + 1,
        candidates.score,
        candidates.rank,
        candidates.margin,
    )
    assert drawn(moved, world=wider, seen=small_resources(tmp_path)) == together
    assert drawn(candidates, NumNegatives(value=4, sampling_strategy="random", seed=8)) != together
    assert together["i0", "t00"] != together["i0", "t05"]


def test_random_draws_are_uniform(tmp_path):
    # 400 rows draw 5 of 20: every candidate is expected 100 times with a standard deviation of sqrt(400 * .25 * .75) = 8.7.
    images, texts = [f"i{n:03d}" for n in range(400)], [f"t{n:03d}" for n in range(20)]
    sides = small_sides("image_to_text", images, texts, [(0, 0)])
    candidates = full_candidates(sides)
    keep = NumNegatives(value=5, sampling_strategy="random").keep(candidates, sides, small_resources(tmp_path))
    by_text = np.bincount(candidates.corpus[keep], minlength=20)
    by_rank = np.bincount(candidates.rank[keep], minlength=21)[1:]
    assert by_text.sum() == by_rank.sum() == 2000
    assert abs(by_text - 100).max() < 5 * 8.7
    assert abs(by_rank - 100).max() < 5 * 8.7


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 6), max_size=6),
    skip=st.integers(0, 4),
    stop=st.integers(1, 5),
    count=st.integers(1, 4),
    low=st.floats(-1, 1),
    margin=st.floats(-0.5, 0.5),
    seed=st.integers(0, 99),
)
def test_chain_equals_a_loop_over_rows(sizes, skip, stop, count, low, margin, seed):
    rng = np.random.default_rng(seed)
    rows = {row: sorted(rng.uniform(-1, 1, size).tolist(), reverse=True) for row, size in enumerate(sizes)}
    positive = {row: float(rng.uniform(-1, 1)) for row in rows}
    chain = [
        ("min_score", MinScore(value=low)),
        ("absolute_margin", AbsoluteMargin(value=margin)),
        ("range_max", RangeMax(value=stop)),
        ("range_min", RangeMin(value=skip)),
        ("num_negatives", NumNegatives(value=count)),
    ]
    left, dropped = run_chain(chain, hand_made(rows, positive), None, None)
    expected, removed = [], dict.fromkeys(dropped, 0)
    for row, scores in rows.items():
        steps = {
            "min_score": lambda own: [s for s in own if not s < low],
            "absolute_margin": lambda own, p=positive[row]: [s for s in own if p - s >= margin],
            "range_max": lambda own: own[:stop],
            "range_min": lambda own: own[skip:],
            "num_negatives": lambda own: own[:count],
        }
        for name, step in steps.items():
            before, scores = scores, step(scores)
            removed[name] += len(before) - len(scores)
        expected += [(row, score) for score in scores]
    assert list(zip(left.row.tolist(), left.score.tolist(), strict=True)) == expected
    assert dropped == removed
