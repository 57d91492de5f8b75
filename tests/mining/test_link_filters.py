from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fgray.errors import DataError
from fgray.mining.candidates import Candidates, Side, Sides
from fgray.mining.link_filters import OtherCaptions, SameCaption, SameImage, SameLabel
from fgray.mining.texts import normal_form, token_set
from tests.mining.small_sides import KINDS, full_candidates, small_resources, small_sides

DIRECTIONS = list(KINDS)

# Images a and b share the caption "A dog." up to its form; c stands alone; d has no caption, and "lost" no image.
IMAGES = ["a", "b", "c", "d"]
TEXTS = ["A dog.", "Puppy", "a DOG", "lost", "sea", "wolf"]
LINKS = [(0, 0), (0, 1), (1, 2), (1, 5), (2, 4)]


def dropped(filter_, sides: Sides, resources) -> set[tuple[str, str]]:
    candidates = full_candidates(sides)
    out = ~filter_.keep(candidates, sides, resources)
    pairs = zip(candidates.anchor[out], candidates.corpus[out], strict=True)
    return {(sides.anchors.keys[a], sides.corpus.keys[c]) for a, c in pairs}


def both_ways(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return pairs | {(b, a) for a, b in pairs}


def itself(keys) -> set[tuple[str, str]]:
    return {(key, key) for key in keys}


OWN = {("a", "A dog."), ("a", "Puppy"), ("b", "a DOG"), ("b", "wolf"), ("c", "sea")}
TWINS = {("A dog.", "a DOG"), ("a DOG", "A dog.")}
FAMILY = ["A dog.", "Puppy", "a DOG", "wolf"]
EXPECTED = {
    (SameImage, "image_to_text"): OWN,
    (SameImage, "text_to_image"): {(text, image) for image, text in OWN},
    (SameImage, "image_to_image"): itself(IMAGES),
    (SameImage, "text_to_text"): itself(TEXTS) | both_ways({("A dog.", "Puppy"), ("a DOG", "wolf")}),
    (SameCaption, "image_to_text"): OWN | {("a", "a DOG"), ("b", "A dog.")},
    (SameCaption, "text_to_image"): {(text, image) for image, text in OWN} | {("a DOG", "a"), ("A dog.", "b")},
    (SameCaption, "image_to_image"): itself("abc") | both_ways({("a", "b")}),
    (SameCaption, "text_to_text"): itself(TEXTS) | TWINS,
    (OtherCaptions, "image_to_text"): {(image, text) for image in "ab" for text in FAMILY} | {("c", "sea")},
    (OtherCaptions, "text_to_image"): {(text, image) for image in "ab" for text in FAMILY} | {("sea", "c")},
    (OtherCaptions, "image_to_image"): itself(IMAGES) | both_ways({("a", "b")}),
    (OtherCaptions, "text_to_text"): {(one, other) for one in FAMILY for other in FAMILY} | itself(TEXTS),
}


@pytest.mark.parametrize(("kind", "direction"), EXPECTED)
def test_links_by_hand(kind, direction, tmp_path):
    sides = small_sides(direction, IMAGES, TEXTS, LINKS)
    assert dropped(kind(), sides, small_resources(tmp_path)) == EXPECTED[kind, direction]


def test_an_anchor_is_never_its_own_negative_in_another_corpus_either(tmp_path):
    sides = small_sides("text_to_text", IMAGES, TEXTS, LINKS)
    bare = [sparse.csr_matrix((2, side.shape[1]), dtype=bool) for side in (sides.corpus.images, sides.corpus.labels)]
    sides = Sides(sides.anchors, Side("text", ["found", "lost"], *bare), sides.images, sides.texts)
    for filter_ in (SameImage(), OtherCaptions()):
        assert dropped(filter_, sides, small_resources(tmp_path)) == {("lost", "lost")}


def test_hidden_links_are_not_seen_even_where_they_were_only_unset(tmp_path):
    sides = small_sides("image_to_text", IMAGES, TEXTS, LINKS)
    links = sides.corpus.images.copy()
    links.data[links.indptr[0] : links.indptr[1]] = False  # of "A dog."; the cell stays in the matrix
    hidden = Side("text", TEXTS, links, sides.corpus.labels)
    sides = Sides(sides.anchors, hidden, sides.images, sides.texts, sides.positives)
    assert dropped(SameImage(), sides, small_resources(tmp_path)) == OWN - {("a", "A dog.")}


def test_labels_by_hand(tmp_path):
    sides = small_sides("image_to_text", IMAGES, TEXTS, LINKS, labels=["pet", "pet", "view", None])
    pets = {(image, text) for image in "ab" for text in FAMILY}
    assert dropped(SameLabel(), sides, small_resources(tmp_path)) == pets | {("c", "sea")}


def test_labels_that_nobody_brought_are_an_error():
    sides = small_sides("image_to_text", IMAGES, TEXTS, LINKS)
    with pytest.raises(DataError, match="no labels for filter same_label"):
        SameLabel().check(sides)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A dog runs .", "a dog runs"),
        ("A  dog\truns", "A dog runs\n"),
        ("ﬁne weather", "Fine weather!"),
        ("the dog's ball", "the dog’s ball"),
        ("STRASSE", "straße"),
        ("cafe\u0301", "CAFÉ"),
        ("two-tone,red", "two tone red"),
    ],
)
def test_texts_that_are_the_same(one, other):
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("one", "other"), [("a dog", "a dogs"), ("man bites dog", "dog bites man"), ("2 men", "3 men"), (":)", ":(")])
def test_texts_that_are_not_the_same(one, other):
    assert normal_form(one) != normal_form(other)


def test_words():
    assert token_set("A dog, a DOG and the dog's bone.") == {"a", "dog", "and", "the", "dogs", "bone"}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), direction=st.sampled_from(DIRECTIONS), seed=st.integers(0, 1000))
def test_links_equal_a_loop_over_pairs(data, direction, seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    images = [f"i{n}" for n in range(data.draw(st.integers(1, 6)))]
    words = ["sky", "Sky!", "red sky", "dog", "DOG .", "cat", "a cat"]
    texts = sorted(words[: data.draw(st.integers(1, 7))])
    links = [(i, t) for i in range(len(images)) for t in range(len(texts)) if rng.random() < 0.3]
    labels = [["x", "y", None][rng.integers(3)] for _ in images]
    labels[0] = "x"
    links.append((0, 0))
    sides = small_sides(direction, images, texts, links, labels)
    resources = small_resources(tmp_path_factory.mktemp("store"))

    captions = {image: {texts[t] for i, t in links if images[i] == image} for image in images}
    shown = {text: {images[i] for i, t in links if texts[t] == text} for text in texts}

    def plain(text: str) -> str:
        return " ".join("".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum() or c == " ").split())

    def images_of(kind: str, key: str) -> set[str]:
        return {key} if kind == "image" else shown[key]

    def texts_of(kind: str, key: str) -> set[str]:
        return {plain(text) for text in (captions[key] if kind == "image" else {key})}

    def family(kind: str, key: str) -> set[str]:
        return {plain(text) for image in images_of(kind, key) for text in captions[image]}

    def classes(kind: str, key: str) -> set[str]:
        return {labels[images.index(image)] for image in images_of(kind, key)} - {None}

    rules = {SameImage: images_of, SameCaption: texts_of, OtherCaptions: family, SameLabel: classes}
    anchor_kind, corpus_kind = KINDS[direction]
    for kind, rule in rules.items():
        rules_in_force = [rule, images_of] if kind is OtherCaptions else [rule]
        expected = {
            (one, other)
            for one in sides.anchors.keys
            for other in sides.corpus.keys
            if any(test(anchor_kind, one) & test(corpus_kind, other) for test in rules_in_force)
            or (kind in (SameImage, OtherCaptions) and (anchor_kind, one) == (corpus_kind, other))
        }
        assert dropped(kind(), sides, resources) == expected, kind


@pytest.fixture(scope="module")
def flickr(data_root: Path) -> tuple[list[str], list[str], list[tuple[int, int]]]:
    lines = (data_root / "flickr8k" / "captions.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    images = sorted(Path(row["image"]).stem for row in rows)
    texts = sorted({caption for row in rows for caption in row["captions"]})
    image_number, text_number = ({key: n for n, key in enumerate(keys)} for keys in (images, texts))
    links = {(image_number[Path(row["image"]).stem], text_number[caption]) for row in rows for caption in row["captions"]}
    return images, texts, sorted(links)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_known_positive_of_flickr8k_is_dropped(direction, flickr, tmp_path):
    images, texts, links = flickr
    image_of, text_of = np.array(links).T
    linked = sparse.csr_matrix((np.ones(len(links), bool), (text_of, image_of)), shape=(len(texts), len(images)))
    nothing = [sparse.csr_matrix((n, 0), dtype=bool) for n in (len(images), len(texts))]
    image = Side("image", images, sparse.identity(len(images), bool, "csr"), nothing[0])
    text = Side("text", texts, linked, nothing[1])
    anchors, corpus = ({"image": image, "text": text}[kind] for kind in KINDS[direction])
    sides = Sides(anchors, corpus, image, text)
    # Every known pair, and as many random ones, of which few are known.
    rng = np.random.default_rng(0)
    known = {"image_to_text": links, "text_to_image": [(t, i) for i, t in links], "image_to_image": [(n, n) for n in range(len(images))]}
    siblings = {}
    for i, t in links:
        siblings.setdefault(i, []).append(t)
    known["text_to_text"] = [(one, other) for group in siblings.values() for one in group for other in group]
    true = set(known[direction])
    strangers = [pair for pair in zip(*(rng.integers(0, len(s.keys), 20_000).tolist() for s in (anchors, corpus)), strict=True)]
    a, c = np.array([*sorted(true), *strangers]).T
    candidates = Candidates(a, a, np.full(len(a), -1), c, np.zeros(len(a)), np.ones(len(a), np.int32), np.full(len(a), np.nan))
    keep = SameImage().keep(candidates, sides, small_resources(tmp_path))
    assert keep.tolist() == [False] * len(true) + [pair not in true for pair in strangers]
    assert keep[len(true) :].mean() > 0.99
    assert not OtherCaptions().keep(candidates, sides, small_resources(tmp_path))[: len(true)].any()
