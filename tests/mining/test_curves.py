from __future__ import annotations

import numpy as np
import pytest

from fgray.config.schema import NamedConfig
from fgray.mining.curves import price_curves
from fgray.mining.filters import FILTERS, build_filters
from tests.mining.small_sides import hand_made, small_resources, small_sides

SCORES = {0: [0.9513, 0.8127, 0.3309], 1: [0.6211, 0.6047, 0.1253, -0.3119]}
POSITIVE = {0: 0.7031, 1: 0.6553}
COPY = [True, False, False, True, False, False, False]
# No score or margin equals a threshold, so that no last bit decides.
CAPTION = [False, True, False, False, False, False, False]
TRUE = [False, False, True, False, True, True, False]  # the last one is neither
HARD = [2, 4]


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory):
    return small_resources(tmp_path_factory.mktemp("store"))


def curves_of(direction: str, configs: list[dict], resources):
    chain = build_filters([NamedConfig(**config) for config in configs], [direction])
    sides = small_sides(direction, ["a", "b"], list("tuvwxyz"), [(0, 0), (1, 1)])
    families = {"copy": np.array(COPY), "caption": np.array(CAPTION), "none": np.zeros(7, bool)}
    return price_curves(direction, chain, hand_made(SCORES, POSITIVE), families, np.array(TRUE), np.array(HARD), sides, resources)


def share(dropped: list[bool], among: list[bool]) -> float:
    chosen = [out for out, inside in zip(dropped, among, strict=True) if inside]
    return sum(chosen) / len(chosen)


FLAT = [(row, score) for row, scores in SCORES.items() for score in scores]
RULES = {
    "max_score": lambda row, score, limit: score > limit,
    "min_score": lambda row, score, limit: score < limit,
    "absolute_margin": lambda row, score, limit: POSITIVE[row] - score < limit,
    "relative_margin": lambda row, score, limit: score > POSITIVE[row] * (1 - limit),
}


@pytest.mark.parametrize("name", RULES)
def test_every_point_is_the_share_that_the_rule_drops(name: str, resources) -> None:
    (curve,) = curves_of("image_to_text", [{"name": name, "value": 0.1}], resources)
    assert (curve.filter, curve.option, curve.current) == (name, "value", 0.1)
    thresholds = [point.threshold for point in curve.points]
    assert thresholds == sorted(set(thresholds))
    seen = set()
    for point in curve.points:
        dropped = [RULES[name](row, score, point.threshold) for row, score in FLAT]
        assert point.recall == {"copy": share(dropped, COPY), "caption": share(dropped, CAPTION), "none": None}
        assert point.lost == share(dropped, TRUE)
        assert point.hardest == share(dropped, [number in HARD for number in range(7)])
        seen.add((point.recall["copy"], point.lost))
    assert len(seen) > 2  # the curve moves


def test_a_known_point(resources) -> None:
    (curve,) = curves_of("image_to_text", [{"name": "max_score", "value": 0.5}], resources)
    point = next(point for point in curve.points if point.threshold == 0.8)
    assert point.recall == {"copy": 0.5, "caption": 1.0, "none": None}
    assert point.lost == 0.0
    first = {"threshold": -0.2, "recall": {"copy": 1.0, "caption": 1.0, "none": None}, "lost": 1.0, "hardest": 1.0}
    assert curve.to_dict()["points"][0] == first


def test_options_that_are_off_have_a_curve_too(resources) -> None:
    curves = curves_of("image_to_text", [{"name": "same_image"}, {"name": "near_duplicate_texts"}], resources)
    found = {(curve.filter, curve.option): curve.current for curve in curves}
    assert found == {("near_duplicate_texts", "token_overlap"): 1.0, ("near_duplicate_texts", "cosine"): None}


def test_a_curve_has_at_most_fifty_points() -> None:
    for name in FILTERS.names():
        for option, thresholds in FILTERS.get(name).CURVES.items():
            assert 2 <= len(thresholds) <= 50, f"{name}.{option}"
