from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.config.schema import NamedConfig
from fgray.errors import ConfigError
from fgray.mining.filters import FILTERS, Filter, build_filters, describe, reasons, run_chain
from fgray.mining.near_duplicates import NearDuplicateImages, NearDuplicateTexts
from tests.mining.small_sides import full_candidates, hand_made, small_resources, small_sides

CROSS = ["image_to_text", "text_to_image"]
WITHIN = ["image_to_image", "text_to_text"]


def config(name: str, **options) -> NamedConfig:
    return NamedConfig(name=name, **options)


def test_every_filter_says_what_it_does():
    assert set(FILTERS.names()) >= {
        *("range_min", "range_max", "min_score", "max_score", "absolute_margin", "relative_margin", "num_negatives"),
        *("same_image", "same_caption", "other_captions", "same_label"),
        *("near_duplicate_images", "near_duplicate_texts", "second_model"),
    }
    for name in FILTERS.names():
        kind = FILTERS.get(name)
        assert issubclass(kind, Filter)
        assert describe(kind).endswith(".")
        assert all(field.description for field in kind.model_fields.values()), name


@pytest.mark.parametrize(
    ("configs", "directions", "message"),
    [
        ([config("same_imge")], CROSS, r"no filter is called 'same_imge' \[filters.0\]: did you mean 'same_image'\?"),
        (
            [config("same_image"), config("near_duplicate_images", hash_distnce=3)],
            CROSS,
            r"'near_duplicate_images' has no option 'hash_distnce' \[filters.1.hash_distnce\]: did you mean 'hash_distance'\?",
        ),
        ([config("max_score", value=2)], CROSS, r"wrong option for max_score .*less than or equal to 1.* \[filters.0.value\]"),
        ([config("max_score")], CROSS, r"filter 'max_score' needs the option 'value' \[filters.0\]: see fgray list filters max_score"),
        ([config("num_negatives", value=3, sampling_strategy="best")], CROSS, r"'top' or 'random'.* \[filters.0.sampling_strategy\]"),
        ([config("near_duplicate_texts", token_overlap=None)], CROSS, r"give token_overlap or cosine"),
        ([config("same_image", value=1)], CROSS, r"filter 'same_image' has no option 'value'"),
        ([config("same_image"), config("same_image")], CROSS, r"filter 'same_image' stands twice \[filters.1\]"),
        ([config("num_negatives", value=3), config("same_image")], CROSS, r"'same_image' stands after num_negatives"),
        (
            [config("absolute_margin", value=0)],
            [*CROSS, "image_to_image"],
            r"'absolute_margin' compares .* image_to_image has no positives",
        ),
        ([config("relative_margin", value=0)], ["text_to_text"], r"'relative_margin' compares .* text_to_text has no positives"),
        ([config("second_model", model={"kind": "tiny"})], ["text_to_text"], r"'second_model' compares .* text_to_text has no positives"),
        ([config("second_model", model={"kind": "tiny"}, margin=None)], CROSS, r"give margin or max_score"),
        ([config("second_model", model={"kind": "tni"})], CROSS, r"wrong option for second_model"),
        (
            [config("second_model", model={"kind": "precomputed", "name": "x", "scores": "x.csv"})],
            CROSS,
            r"precomputed scores cannot embed anything new",
        ),
        ([config("min_score", value=0.5), config("max_score", value=0.4)], CROSS, r"no candidate passes min_score 0.5 and max_score 0.4"),
        ([config("range_max", value=10), config("range_min", value=10)], CROSS, r"no candidate passes range_max 10 and then range_min 10"),
    ],
)
def test_nonsense_is_refused_in_one_line(configs, directions, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_filters(configs, directions)
    assert "\n" not in str(caught.value)


def test_what_is_no_nonsense_is_built_in_order():
    configs = [
        config("same_image"),
        config("near_duplicate_images", hash_distance=8),
        config("range_min", value=10),
        config("range_max", value=10),
        config("num_negatives", value=5),
    ]
    chain = build_filters(configs, CROSS + WITHIN)
    assert [name for name, _ in chain] == [one.name for one in configs]
    assert chain[1][1].hash_distance == 8
    build_filters([config("second_model", model={"kind": "tiny"}, margin=None, max_score=0.9)], WITHIN)
    build_filters([config("absolute_margin", value=0.1), config("second_model", model={"kind": "tiny"})], CROSS)
    assert build_filters([], CROSS) == []


def test_curves_turn_one_option_with_the_others_off():
    built = NearDuplicateImages(hash_distance=8, cosine=0.9)
    curves = built.curve("image_to_text")
    assert set(curves) == {"hash_distance", "cosine"}
    assert all(one.hash_distance == value and one.cosine is None for value, one in curves["hash_distance"])
    assert all(one.cosine == value and one.hash_distance is None for value, one in curves["cosine"])
    (_, margin), (_, second) = build_filters(
        [config("absolute_margin", value=0.1), config("second_model", model={"kind": "tiny"}, max_score=0.5)], CROSS
    )
    assert set(second.curve("text_to_image")) == {"margin", "max_score"}
    assert set(second.curve("image_to_image")) == {"max_score"}
    assert set(margin.curve("text_to_text")) == set()
    assert build_filters([config("num_negatives", value=1)], CROSS)[0][1].curve("text_to_text") == {}


def test_reasons():
    candidates = hand_made({0: [0.75, 0.5], 1: [0.25]}, {0: 0.625})
    chain = build_filters([config("same_image"), config("max_score", value=0.9), config("num_negatives", value=5)], CROSS)
    assert reasons(candidates, chain, 100) == [
        "rank 1 of 100, 0.125 above its positive; passed same_image, max_score",
        "rank 2 of 100, 0.125 below its positive; passed same_image, max_score",
        "rank 1 of 100; passed same_image, max_score",
    ]
    assert reasons(candidates.take(np.array([2])), [], 7) == ["rank 1 of 7"]


CHAIN = [
    config("same_image"),
    config("same_caption"),
    config("near_duplicate_texts", token_overlap=0.6),
    config("min_score", value=-0.9),
    config("range_min", value=1),
    config("range_max", value=9),
    config("num_negatives", value=3, sampling_strategy="random", seed=5),
]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), max_size=5), order=st.randoms(use_true_random=False), direction=st.sampled_from(CROSS + WITHIN))
def test_blocks_of_any_size_give_the_same(cuts, order, direction, tmp_path_factory):
    images = [f"i{n}" for n in range(12)]
    words = [
        "a red dog",
        "a dog, red",
        "the red dog",
        "A red dog.",
        "one cat",
        "two cats",
        "one cat sleeps",
        "sea",
        "blue sea",
        "Sea",
        "x",
        "y",
    ]
    texts = sorted(words)
    sides = small_sides(direction, images, texts, [(n, n) for n in range(12)] + [(0, 3), (5, 1)])
    resources = small_resources(tmp_path_factory.mktemp("store"))
    chain = build_filters(CHAIN, [direction])
    candidates = full_candidates(sides, seed=1)
    whole, dropped = run_chain(chain, candidates, sides, resources)
    bounds = [0, *sorted(cuts), 12]
    blocks = [(low, high) for low, high in zip(bounds, bounds[1:], strict=False)]
    order.shuffle(blocks)
    parts, counted = {}, dict.fromkeys(dropped, 0)
    for low, high in blocks:
        part, lost = run_chain(chain, candidates.take((candidates.row >= low) & (candidates.row < high)), sides, resources)
        for row in np.unique(part.row).tolist():
            parts[row] = part.corpus[part.row == row].tolist()
        counted = {name: counted[name] + lost[name] for name in counted}
    assert parts == {row: whole.corpus[whole.row == row].tolist() for row in np.unique(whole.row).tolist()}
    assert counted == dropped
    assert list(dropped) == [one.name for one in CHAIN]
    assert sum(dropped.values()) + len(whole) == len(candidates)
    assert all(dropped[name] for name in ("range_min", "num_negatives"))


def test_near_duplicate_texts_by_default_drop_equal_words_only(tmp_path):
    texts = ["a dog bites a man", "a man bites a dog", "dog man bites a !", "the dog bites a man", "unrelated"]
    sides = small_sides("text_to_text", [], texts, [])
    candidates = full_candidates(sides)
    keep = NearDuplicateTexts().keep(candidates, sides, small_resources(tmp_path))
    out = {(a, c) for a, c in zip(candidates.anchor[~keep].tolist(), candidates.corpus[~keep].tolist(), strict=True)}
    assert out == {(a, c) for a in range(3) for c in range(3)} | {(3, 3), (4, 4)}
