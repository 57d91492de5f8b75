from __future__ import annotations

import numpy as np
import pytest

from fgray.mining.candidates import Candidates
from fgray.mining.riskiest import Riskiest
from tests.mining.small_sides import hand_made


def random_candidates(seed: int, positives: bool) -> Candidates:
    rng = np.random.default_rng(seed)
    count = 120
    row = np.sort(rng.integers(0, 40, count))
    anchor = row // 2  # two rows an anchor
    score = rng.integers(-8, 8, count) / 16  # many ties
    margin = rng.integers(-8, 8, count) / 16 if positives else np.full(count, np.nan)
    corpus = rng.integers(0, 30, count)
    positive = row if positives else np.full(count, -1)
    return Candidates(row, anchor, positive, corpus, score, np.ones(count, np.int32), margin)


def by_hand(candidates: Candidates, count: int) -> list[tuple]:
    found: dict[int, tuple] = {}
    for at in range(len(candidates)):
        anchor, score, margin = int(candidates.anchor[at]), float(candidates.score[at]), float(candidates.margin[at])
        risk = -score if margin != margin else margin
        key = (risk, -score, anchor, int(candidates.corpus[at]), int(candidates.positive[at]))
        found[anchor] = min(found.get(anchor, key), key)
    return [(anchor, corpus, positive, -minus) for _, minus, anchor, corpus, positive in sorted(found.values())[:count]]


@pytest.mark.parametrize("positives", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_equals_sorting_everything_however_it_is_cut(seed: int, positives: bool) -> None:
    candidates = random_candidates(seed, positives)
    expected = by_hand(candidates, 9)
    rng = np.random.default_rng(seed)
    for pieces in (1, 4, 17):
        riskiest = Riskiest(9)
        cuts = np.array_split(rng.permutation(len(candidates)), pieces)
        for cut in cuts:
            riskiest.add(candidates.take(np.sort(cut)))
        found = riskiest.survivors()
        assert found is not None
        rows = zip(found.anchor.tolist(), found.corpus.tolist(), found.positive.tolist(), found.score.tolist(), strict=True)
        assert list(rows) == expected


def test_by_hand() -> None:
    riskiest = Riskiest(5)
    assert riskiest.survivors() is None
    riskiest.add(hand_made({0: [0.5, 0.25], 1: [0.75, 0.5, 0.25]}, {0: 0.375, 1: 1.0}))
    found = riskiest.survivors()
    assert (found.anchor.tolist(), found.corpus.tolist(), found.margin.tolist()) == ([0, 1], [0, 2], [-0.125, 0.25])


def test_none_are_wanted() -> None:
    riskiest = Riskiest(0)
    riskiest.add(random_candidates(0, True))
    assert len(riskiest.survivors()) == 0
