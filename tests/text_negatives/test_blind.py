"""Blind accuracy against counts by hand."""

from __future__ import annotations

import pytest

from fgray.config.schema import StatsConfig
from fgray.text_negatives.blind import BlindPair, Likelihood, blind_accuracy

STATS = StatsConfig(resamples=200)


def pair(generator: str, kind: str, anchor: str, positive: tuple[float, int], negative: tuple[float, int]) -> BlindPair:
    return BlindPair(generator, kind, anchor, Likelihood(*positive), Likelihood(*negative))


PAIRS = [
    # per token -2 against -3, sum -10 against -15: the positive is likelier in both ways
    pair("swap", "noun", "a", (-10.0, 5), (-15.0, 5)),
    # equal in both ways: half
    pair("swap", "noun", "b", (-10.0, 5), (-10.0, 5)),
    # the negative is likelier in both ways
    pair("swap", "noun", "c", (-12.0, 4), (-8.0, 4)),
    # per token -2 against -1.5: the negative; sum -10 against -12: the positive
    pair("add", "adjective", "a", (-10.0, 5), (-12.0, 8)),
]


def test_counts_by_hand() -> None:
    metrics = blind_accuracy(PAIRS, STATS)
    values = {name: (entry["correct"], entry["count"]) for name, entry in metrics.items()}
    assert values == {
        "blind/swap/noun/accuracy": (1.5, 3),
        "blind/swap/accuracy": (1.5, 3),
        "blind/add/adjective/accuracy": (0.0, 1),
        "blind/add/accuracy": (0.0, 1),
        "blind/accuracy": (1.5, 4),
        "blind/swap/noun/sum_accuracy": (1.5, 3),
        "blind/swap/sum_accuracy": (1.5, 3),
        "blind/add/adjective/sum_accuracy": (1.0, 1),
        "blind/add/sum_accuracy": (1.0, 1),
        "blind/sum_accuracy": (2.5, 4),
    }
    assert metrics["blind/accuracy"]["value"] == pytest.approx(0.375)
    assert metrics["blind/accuracy"]["ties"] == 1
    assert {entry["chance"] for entry in metrics.values()} == {0.5}


def test_captions_are_the_clusters() -> None:
    entry = blind_accuracy(PAIRS, STATS)["blind/accuracy"]
    assert entry["clusters"] == 3
    low, high = entry["ci95"]
    assert 0 <= low < 0.375 < high <= 1


def test_many_negatives_of_one_caption_do_not_narrow_the_interval() -> None:
    once = [pair("g", "t", str(n), (-10.0, 5), (-10.0 + (-1) ** n, 5)) for n in range(40)]
    often = [item for item in once for _ in range(10)]
    narrow, wide = (blind_accuracy(pairs, STATS)["blind/accuracy"]["ci95"] for pairs in (once, often))
    assert wide[1] - wide[0] == pytest.approx(narrow[1] - narrow[0], rel=0.05)
