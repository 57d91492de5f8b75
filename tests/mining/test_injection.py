from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgray.data.index import ImageIndex, open_images
from fgray.errors import ConfigError
from fgray.mining.candidates import Side
from fgray.mining.injection import inject
from tests.mining.small_sides import small_resources, small_sides
from tests.small_data import write_picture

IMAGES = [f"p{number}" for number in range(5)]
# p0 and p1 have three captions, p2 one, and p3 one that p4 shares.
TEXTS = sorted(["A dog runs .", "a puppy at play", "the brown dog", "Surf .", "a wave", "big water", "A red car", "two men talk"])
CAPTIONS = {
    "p0": ["A dog runs .", "a puppy at play", "the brown dog"],
    "p1": ["Surf .", "a wave", "big water"],
    "p2": ["A red car"],
    "p3": ["two men talk"],
    "p4": ["two men talk"],
}
LINKS = [(IMAGES.index(image), TEXTS.index(text)) for image, texts in CAPTIONS.items() for text in texts]
LABELS = ["animal", None, None, "people", "people"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    root = tmp_path_factory.mktemp("pictures")
    for number, key in enumerate(IMAGES):
        write_picture(root / f"{key}.jpg", number)
    return open_images(str(root))


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory):
    return small_resources(tmp_path_factory.mktemp("store"))


def linked(side: Side, row: int) -> list[str]:
    return [IMAGES[column] for column in side.images[row].indices]


def labelled(side: Side, row: int) -> int:
    return side.labels[row].nnz


def read(side: Side) -> dict[str, bytes]:
    """Return the files in the order of the rows, by the rows' keys."""
    files = [data for where, keys in side.places for data in where.read(where.locate(list(keys)))]
    return dict(zip(side.keys, files, strict=True))


@pytest.mark.parametrize("direction", ["image_to_image", "text_to_image"])
def test_copies_of_images_follow_the_corpus_without_links(direction: str, index: ImageIndex, resources) -> None:
    sides = small_sides(direction, IMAGES, TEXTS, LINKS, LABELS, index)
    if direction == "image_to_image":
        anchor, positive, source = np.array([0, 3]), np.array([-1, -1]), ["p0", "p3"]
    else:
        anchor = np.array([TEXTS.index("a wave"), TEXTS.index("two men talk")])
        positive, source = np.array([1, 4]), ["p1", "p4"]
    injected = inject(sides, anchor, positive, 0, resources, "fp16")
    transforms = ["exact", "reencoded", "cropped", "rescaled", "flipped"]
    assert sorted(zip(injected.owner, injected.transform, strict=True)) == sorted((o, t) for o in (0, 1) for t in transforms)
    assert sorted(injected.row) == list(range(5, 15))
    corpus = injected.hidden.corpus
    assert list(corpus.keys[:5]) == IMAGES
    files = read(corpus)
    for row, owner, transform, name in zip(injected.row, injected.owner, injected.transform, injected.names, strict=True):
        assert corpus.keys[row] == name == f"audit/{transform}/{source[owner]}"
        assert linked(corpus, row) == []
        assert labelled(corpus, row) == 0
        assert linked(injected.visible.corpus, row) == linked(sides.anchors, int(anchor[owner]))
        assert labelled(injected.visible.corpus, row) == (source[owner] in ("p0", "p3", "p4"))
        assert (files[name] == files[source[owner]]) == (transform == "exact")
    for row in range(5):  # the corpus itself is as it was
        assert linked(corpus, row) == linked(injected.visible.corpus, row) == [IMAGES[row]]
        assert labelled(corpus, row) == (LABELS[row] is not None)
    assert sides.corpus.images.shape == (5, 5)


def test_vectors_are_those_of_the_model_as_the_search_stores_them(index: ImageIndex, resources) -> None:
    sides = small_sides("image_to_image", IMAGES, TEXTS, LINKS, LABELS, index)
    injected = inject(sides, np.array([2]), np.array([-1]), 0, resources, "fp16")
    files = read(injected.hidden.corpus)
    model, source = resources.source.load("cpu"), resources.source
    for name, vector in zip(injected.names, injected.vectors, strict=True):
        expected = model.embed_images(source.preprocess(Image.open(io.BytesIO(files[name])).convert("RGB"))[None])[0]
        np.testing.assert_allclose(vector, expected, atol=1e-3)
        np.testing.assert_array_equal(vector, vector.astype(np.float16).astype(np.float32))


def words(text: str) -> list[str]:
    return text.lower().replace(".", " ").replace("!", " ").split()


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_text"])
def test_texts_lose_their_links_and_keep_their_words(direction: str, resources) -> None:
    sides = small_sides(direction, IMAGES, TEXTS, LINKS, LABELS)
    base = ["A dog runs .", "a wave", "A red car"]
    if direction == "image_to_text":
        anchor, positive = np.array([0, 1, 2]), np.array([TEXTS.index(text) for text in base])
    else:
        anchor, positive = np.array([TEXTS.index(text) for text in base]), np.full(3, -1)
    injected = inject(sides, anchor, positive, 0, resources, "fp32")
    found = {
        (int(o), t): injected.hidden.corpus.keys[row] for o, t, row in zip(injected.owner, injected.transform, injected.row, strict=True)
    }
    # p2 has no other caption to serve as a paraphrase
    assert sorted(found) == [(0, "paraphrase"), (0, "recased"), (1, "paraphrase"), (1, "recased"), (2, "recased")]
    assert found[0, "paraphrase"] in {"a puppy at play", "the brown dog"}
    assert found[1, "paraphrase"] in {"Surf .", "big water"}
    for owner in range(3):
        assert found[owner, "recased"] not in TEXTS
        assert words(found[owner, "recased"]) == words(base[owner])
    for (owner, transform), text in found.items():
        row = injected.hidden.corpus.keys.index(text)
        assert (row < len(TEXTS)) == (transform == "paraphrase")  # a text is its own key
        assert linked(injected.hidden.corpus, row) == []
        assert labelled(injected.hidden.corpus, row) == 0
        assert linked(injected.visible.corpus, row) == [IMAGES[owner]]
        assert labelled(injected.visible.corpus, row) == (owner == 0)
    held_out = {text for (_, transform), text in found.items() if transform == "paraphrase"}
    for row, text in enumerate(TEXTS):  # captions through which filters know an image do not tell, either
        expected = [] if text in held_out else linked(sides.texts, row)
        assert linked(injected.hidden.texts, row) == linked(injected.hidden.corpus, row) == expected
        assert linked(injected.visible.texts, row) == linked(sides.texts, row)
    assert len(injected.hidden.corpus.keys) == len(set(injected.hidden.corpus.keys)) == len(TEXTS) + 3


def test_a_paraphrase_that_the_corpus_lacks_is_added(resources) -> None:
    sides = small_sides("image_to_text", IMAGES, TEXTS, LINKS)
    empty = small_sides("image_to_text", IMAGES, ["elsewhere", "far off"], []).corpus
    injected = inject(replace(sides, corpus=empty), np.array([0]), np.array([TEXTS.index("A dog runs .")]), 0, resources, "fp32")
    assert injected.row.tolist() == [2, 3]
    assert injected.transform == ("paraphrase", "recased")
    assert injected.hidden.corpus.keys[2] in {"a puppy at play", "the brown dog"}
    assert injected.names == ("audit/paraphrase/p0", "audit/recased/p0")


def test_without_a_model_or_images_it_says_what_to_do(resources, index: ImageIndex) -> None:
    sides = small_sides("image_to_image", IMAGES, TEXTS, LINKS)
    with pytest.raises(ConfigError, match="do not say where they lie.*audit: null"):
        inject(sides, np.array([0]), np.array([-1]), 0, resources, "fp32")
    resources = small_resources("unused")
    resources.source = None
    with pytest.raises(ConfigError, match="without a model.*audit: null"):
        inject(small_sides("image_to_image", IMAGES, TEXTS, LINKS, None, index), np.array([0]), np.array([-1]), 0, resources, "fp32")


def test_the_same_everywhere(index: ImageIndex, resources, tmp_path: Path) -> None:
    sides = small_sides("text_to_image", IMAGES, TEXTS, LINKS, LABELS, index)
    anchor, positive = np.array([TEXTS.index("a wave")]), np.array([1])
    one, other = (inject(sides, anchor, positive, 5, where, "bf16") for where in (resources, small_resources(tmp_path)))
    assert one.names == other.names
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert read(one.hidden.corpus) == read(other.hidden.corpus)
