"""Weights between two models, by hand."""

from __future__ import annotations

import pytest
import torch

from fgray.errors import DataError
from fgray.training.wise_ft import Point, choose, interpolate

BEFORE = {"w": torch.tensor([0.0, 1.0, 0.1]), "n": torch.tensor(3)}
AFTER = {"w": torch.tensor([1.0, 3.0, 0.7]), "n": torch.tensor(5)}


def test_ends_are_the_models_and_between_lies_the_line() -> None:
    assert torch.equal(interpolate(BEFORE, AFTER, 0)["w"], BEFORE["w"])
    assert torch.equal(interpolate(BEFORE, AFTER, 1)["w"], AFTER["w"])
    middle = interpolate(BEFORE, AFTER, 0.25)
    torch.testing.assert_close(middle["w"], torch.tensor([0.25, 1.5, 0.25]))
    assert middle["n"] == 5  # a counter is no weight


def test_other_models_are_refused() -> None:
    with pytest.raises(DataError, match="only one of the models has the tensor 'x'"):
        interpolate({**BEFORE, "x": torch.zeros(1)}, AFTER, 0.5)
    with pytest.raises(DataError, match=r"tensor 'w' is \[2\] before and \[3\] after"):
        interpolate({**BEFORE, "w": torch.zeros(2)}, AFTER, 0.5)


def test_the_rule_takes_the_best_target_that_keeps_enough() -> None:
    before = Point(0, 0.3, 0.6)
    points = [Point(0.2, 0.4, 0.6), Point(0.4, 0.5, 0.595), Point(0.6, 0.5, 0.592), Point(0.8, 0.9, 0.58)]
    assert choose(points, before, 0.01) == points[1]  # 0.8 loses two points; of the equal ones the smaller share
    assert choose(points, before, 0.03) == points[3]
    assert choose([Point(0.5, 0.3, 0.6)], before, 0.01) is None  # no gain, no proposal
