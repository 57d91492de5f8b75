from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgray.data.index import image_key
from fgray.errors import ConfigError, DataError
from fgray.training.hard_negatives import Ragged
from fgray.training.sources import load_sources
from tests.small_data import write_spec
from tests.training.small_sources import negatives_of, train_job, write_negatives, write_pairs

CAPTIONS = {"a": ["a dog", "the dog"], "b": ["a cat"], "c": ["a bird", "A  Dog "], "d": ["a fish"]}


@pytest.fixture
def pairs(tmp_path: Path) -> dict:
    return write_pairs(tmp_path, CAPTIONS)


def load(pairs: dict, tmp_path: Path, rows=None, texts: int = 2, images: int = 1, **more):
    files = [] if rows is None else [write_negatives(tmp_path / "negatives.parquet", rows)]
    job = train_job([{"pairs": pairs, "negatives": files}], negatives={"texts": texts, "images": images, **more})
    return load_sources(job, str(tmp_path / "cache"))[0]


def test_plain_pairs(pairs: dict, tmp_path: Path) -> None:
    source = load(pairs, tmp_path, texts=0, images=0)
    assert {(row["image"], row["text"]) for row in source.pairs.to_pylist()} == {(k, t) for k, texts in CAPTIONS.items() for t in texts}
    assert len(source) == 6 and len(source.text_negatives.items) == 0
    offsets, numbers = source.pairs_of_image
    for image, key in enumerate(source.index.keys.to_pylist()):
        assert {source.pairs["text"][i].as_py() for i in numbers[offsets[image] : offsets[image + 1]]} == set(CAPTIONS[key])


def test_negatives_find_their_pairs(pairs: dict, tmp_path: Path) -> None:
    rows = [
        ("text_edit", "a dog", None, [("a wolf", "noun", True), ("a red dog", "adjective", True), ("<mask>", "verb", False)]),
        ("text_edit", "nobody says this", None, [("a horse", "noun", True)]),
        ("text_to_text", "a cat", None, [("a lion", "mined", True), ("a lion", "mined", True)]),
        ("image_to_text", "a", "a dog", [("a cat", "mined", True)]),  # of one pair
        ("image_to_text", "c", None, [("a plane", "mined", True)]),  # of every pair of the image
        ("text_to_image", "a cat", "b", [("d", "mined", True)]),
        ("text_to_image", "a fish", "b", [("a", "mined", True)]),  # (b, a fish) is no pair
        ("image_to_image", "a", None, [("b", "mined", True), ("d", "mined", False)]),
    ]
    source = load(pairs, tmp_path, rows)
    plane = ("a plane", "mined")
    assert negatives_of(source, "text") == {
        ("a", "a dog"): {("a wolf", "noun"), ("a red dog", "adjective"), ("a cat", "mined")},
        ("a", "the dog"): set(),
        ("b", "a cat"): {("a lion", "mined")},
        ("c", "a bird"): {plane},
        ("c", "A  Dog "): {plane},
        ("d", "a fish"): set(),
    }
    images = negatives_of(source, "image")
    assert {pair: found for pair, found in images.items() if found} == {
        ("a", "a dog"): {("b", "mined")},
        ("a", "the dog"): {("b", "mined")},
        ("b", "a cat"): {("d", "mined")},
    }


def test_right_answers_are_no_negatives(pairs: dict, tmp_path: Path) -> None:
    (tmp_path / "images" / "e.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())  # the same picture again
    rows = [
        ("text_edit", "a bird", None, [("a dog", "x", True), ("a  DOG", "x", True), ("a bird", "x", True), ("the dog", "x", True)]),
        ("image_to_image", "a", None, [("a", "x", True), ("c", "x", True), ("e", "x", True), ("b", "x", True)]),
    ]
    source = load(pairs, tmp_path, rows)
    assert negatives_of(source, "text")["c", "a bird"] == {("the dog", "x")}  # c is called "A  Dog ", too
    images = negatives_of(source, "image")
    assert images["a", "a dog"] == {("b", "x")}  # c is "A  Dog "
    assert images["a", "the dog"] == {("b", "x"), ("c", "x")}


def test_captions_of_an_equal_file_are_right_answers(pairs: dict, tmp_path: Path) -> None:
    (tmp_path / "images" / "d.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    rows = [("image_to_text", "a", None, [("a fish", "x", True), ("a cat", "x", True)])]
    assert negatives_of(load(pairs, tmp_path, rows, images=0), "text")["a", "a dog"] == {("a cat", "x")}


def test_images_of_negatives_need_no_caption(pairs: dict, tmp_path: Path) -> None:
    from tests.small_data import write_picture

    write_picture(tmp_path / "images" / "z.png", 99, (40, 32))
    source = load(pairs, tmp_path, [("image_to_image", "a", None, [("z", "x", True)])], texts=0)
    assert negatives_of(source, "image")["a", "a dog"] == {("z", "x")}
    assert source.index.keys.to_pylist() == ["a", "b", "c", "d", "z"]
    offsets, _ = source.pairs_of_image
    assert offsets[5] == offsets[4]


def test_only_what_is_asked_for_is_kept(pairs: dict, tmp_path: Path) -> None:
    rows = [
        ("text_edit", "a cat", None, [("a lion", "x", True)]),
        ("image_to_image", "a", None, [("b", "x", True)]),
        ("image_to_text", "a", None, [("elsewhere", "x", True)]),
    ]
    texts, images = load(pairs, tmp_path, rows, images=0), load(pairs, tmp_path, rows, texts=0)
    assert len(texts.image_negatives.items) == 0 and len(texts.text_negatives.items) == 3
    assert len(images.text_negatives.items) == 0 and len(images.image_negatives.items) == 2


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        ([("text_edit", "a zebra", None, [("a horse", "x", True)])], DataError, "no row of these negatives is about any of the pairs"),
        ([("image_to_image", "a", None, [("elsewhere", "x", True)])], DataError, "negative image 'elsewhere' does not lie where"),
        ([("text_edit", "a cat", None, [("a lion", "x", True)])], ConfigError, "images is 1, but no source brings negative images"),
        ([("image_to_image", "a", None, [("b", "x", True)])], ConfigError, "texts is 2, but no source brings negative texts"),
        (None, ConfigError, "texts is 2, but no source brings negative texts"),
    ],
)
def test_negatives_that_do_not_fit(pairs: dict, tmp_path: Path, rows, error, text) -> None:
    with pytest.raises(error, match=text) as caught:
        load(pairs, tmp_path, rows)
    assert "\n" not in str(caught.value)


def test_unknown_types_are_named(pairs: dict, tmp_path: Path) -> None:
    rows = [("text_edit", "a cat", None, [("a lion", "noun", True), ("a lion cub", "adjective", True)])]
    assert load(pairs, tmp_path, rows, images=0, text_types=["noun", "noun"]).types == ("noun", "adjective")
    with pytest.raises(ConfigError, match="no negative text is of type 'nuon'.*did you mean 'noun'"):
        load(pairs, tmp_path, rows, images=0, text_types=["nuon", "adjective"])


def test_pairs_without_images_or_captions(pairs: dict, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not say where their images lie"):
        load({"name": "file", "root": pairs["root"]}, tmp_path, texts=0, images=0)


def test_wrong_candidates_of_cases(tmp_path: Path) -> None:
    root = write_spec(tmp_path / "spec", cases=2, subsets=("existence", "relative_size"))
    job = train_job(
        [{"pairs": {"name": "spec", "root": str(root), "subsets": ["existence", "relative_size"]}, "cases": True}],
        negatives={"texts": 2, "images": 2},
    )
    source = load_sources(job, str(tmp_path / "cache"))[0]
    assert len(source) == 2 * (2 + 3)
    texts, images = negatives_of(source, "text"), negatives_of(source, "image")
    for (image, text), found in texts.items():
        subset, case = text.split(" of ")[0], text.split(",")[0]
        count = {"existence": 2, "relative_size": 3}[subset]
        assert found == {(f"{case}, variant {k}", subset) for k in range(count)} - {(text, subset)}
        stem = image.rpartition("_")[0]
        assert images[image, text] == {(f"{stem}_{k}", subset) for k in range(count)} - {(image, subset)}
    assert image_key("relative_size/images/001_2.jpg") in source.index.keys.to_pylist()


def test_cases_of_pools_and_files_are_refused(pairs: dict, tmp_path: Path, data_root: Path) -> None:
    job = train_job([{"pairs": pairs, "cases": True}], negatives={"texts": 1})
    with pytest.raises(ConfigError, match="pairs from a file have no cases"):
        load_sources(job, str(tmp_path))
    config = {"name": "retrieval", "dataset": "flickr8k", "split": "val", "root": str(data_root / "flickr8k")}
    with pytest.raises(ConfigError, match="choose from a pool of candidates.*mine negatives"):
        load_sources(train_job([{"pairs": config, "cases": True}], negatives={"texts": 1}), str(tmp_path / "cache"))


def test_fingerprint_is_of_content(tmp_path: Path) -> None:
    def made(name: str, captions: dict, rows=None):
        (tmp_path / name).mkdir()
        return load(write_pairs(tmp_path / name, captions), tmp_path / name, rows, images=0, texts=0 if rows is None else 1).fingerprint

    edit = [("text_edit", "a cat", None, [("a lion", "x", True)])]
    one = made("one", CAPTIONS)
    assert made("two", CAPTIONS) == one
    assert len({one, made("three", {**CAPTIONS, "d": ["a shark"]}), made("four", CAPTIONS, edit)}) == 3


# --- the choice among a sample's negatives -----------------------------------------------------------------------------


def ragged(*lists: list[tuple[int, int]]) -> Ragged:
    flat = [(sample, item, kind) for sample, entries in enumerate(lists) for item, kind in entries]
    return Ragged.build(len(lists), *np.array(flat, np.int64).reshape(-1, 3).T)


def test_columns_take_their_type_once() -> None:
    negatives = ragged([(1, 0), (2, 0), (3, 1), (1, 1)], [], [(5, 2)])

    def choose(sample: int, columns: list[int | None], draw: int) -> list[int]:
        return negatives.choose(np.array([sample]), columns, (draw,))[0].tolist()

    for draw in range(50):
        noun, other, adjective = choose(0, [0, 0, 1], draw)
        assert {noun, other} == {1, 2} and adjective == 3  # item 1 stands under both types and is used up
        assert choose(0, [None] * 4, draw)[3] == -1  # three different items
        assert sorted(choose(0, [None] * 3, draw)) == [1, 2, 3]
        assert choose(1, [None, 0], draw) == [-1, -1]
        assert choose(2, [0, 2, -1], draw) == [-1, 5, -1]


def test_samples_are_chosen_for_one_by_one() -> None:
    negatives = ragged([(1, 0), (2, 0), (3, 1), (4, 1)], [], [(5, 2), (6, 0)], [(item, 0) for item in range(7, 15)])
    samples, epochs = np.array([3, 1, 0, 3, 2]), np.array([0, 5, 2, 1, 2])
    together = negatives.choose(samples, [0, None, None], (9, samples, epochs))
    for number, (sample, epoch) in enumerate(zip(samples.tolist(), epochs.tolist(), strict=True)):
        alone = negatives.choose(np.array([sample]), [0, None, None], (9, sample, epoch))
        assert together[number].tolist() == alone[0].tolist()
    assert negatives.choose(samples, [], (1,)).shape == (5, 0)


def test_every_negative_gets_its_turn() -> None:
    negatives = ragged([(item, 0) for item in range(5)])
    chosen = negatives.choose(np.zeros(2000, np.int64), [None], (3, np.arange(2000)))
    counts = np.bincount(chosen[:, 0], minlength=5)
    assert ((counts - 400) ** 2 / 400).sum() < 23.5  # chi-square, 4 degrees of freedom, p = 1e-4
