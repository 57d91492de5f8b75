import hashlib
import pickle
from importlib import resources

import pyarrow.parquet as pq
import pytest

from fgray.text_negatives.wordnet_builder import build

FOLDER = resources.files("fgray.text_negatives") / "data"


@pytest.mark.parametrize(
    ("word", "pos", "base"),
    [
        ("men", "n", "man"),
        ("children", "n", "child"),
        ("dresses", "n", "dress"),
        ("dogs", "n", "dog"),
        ("running", "v", "run"),
        ("ate", "v", "eat"),
    ],
)
def test_a_form_leads_to_its_dictionary_form(wordnet, word, pos, base):
    assert wordnet.bases(word, pos)[0] == base


def test_an_unknown_word_has_no_dictionary_form(wordnet):
    assert wordnet.bases("blorptastic", "n") == []
    assert not wordnet.knows("blorptastic", "n")


@pytest.mark.parametrize(
    ("one", "other", "pos"),
    [
        ("man", "guy", "n"),  # a guy is a kind of man
        ("couch", "sofa", "n"),  # synonyms
        ("dogs", "puppy", "n"),  # a kind, in the plural
        ("woman", "person", "n"),  # a class
        ("jump", "leap", "v"),
        ("big", "large", "a"),
        ("huge", "large", "a"),  # similar
        ("dog", "dogs", "n"),  # the same word
    ],
)
def test_words_that_may_stand_for_each_other_are_related(wordnet, one, other, pos):
    assert wordnet.related(one, other, pos)
    assert wordnet.related(other, one, pos)


@pytest.mark.parametrize(
    ("one", "other", "pos"),
    [("man", "woman", "n"), ("dog", "cat", "n"), ("dog", "man", "n"), ("sit", "stand", "v"), ("large", "small", "a"), ("red", "blue", "a")],
)
def test_words_that_contradict_each_other_are_not_related(wordnet, one, other, pos):
    assert not wordnet.related(one, other, pos)
    assert not wordnet.related(other, one, pos)


def test_antonyms_include_those_of_the_adjective_that_it_is_similar_to(wordnet):
    assert "small" in wordnet.antonyms("large", "a")
    assert "small" in wordnet.antonyms("huge", "a")


def test_distance_counts_steps_over_the_nearest_common_ancestor(wordnet):
    dog, cat, puppy = (wordnet.senses(word, "n")[0] for word in ("dog", "cat", "puppy"))
    assert wordnet.distance(dog, cat, 5) == 4  # dog, canine, carnivore, feline, cat
    assert wordnet.distance(dog, cat, 1) is None
    assert wordnet.distance(dog, puppy, 5) is None  # one is a kind of the other


def test_the_most_frequent_sense_comes_first(wordnet):
    assert [wordnet.domain(sense) for sense in wordnet.senses("dog", "n")][0] == "noun.animal"
    assert wordnet.is_kind_of("surgeon", "n", "person")
    assert not wordnet.is_kind_of("dog", "n", "person")


def test_it_pickles_as_a_reference(wordnet):
    data = pickle.dumps(wordnet)
    assert len(data) < 200
    assert pickle.loads(data) is wordnet  # our own bytes


def test_the_fingerprint_is_that_of_the_files(wordnet):
    digest = hashlib.sha256(b"".join((FOLDER / f"wordnet_{name}.parquet").read_bytes() for name in ("synsets", "senses", "forms")))
    assert wordnet.fingerprint == digest.hexdigest()


def test_the_data_come_small_and_with_their_licence():
    assert sum((FOLDER / f"wordnet_{name}.parquet").stat().st_size for name in ("synsets", "senses", "forms")) < 3_000_000
    licence = (FOLDER / "WORDNET-LICENSE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in licence
    assert "Permission to use, copy, modify and distribute" in licence


def test_building_from_a_small_database(tmp_path):
    """Two kinds of "thing", one of them also a man's name, which is left out."""
    (tmp_path / "data.noun").write_text(
        "  1 licence\n"
        "00000010 03 n 01 thing 0 000 | anything  \n"
        "00000020 06 n 02 ball 0 globe 1 002 @ 00000010 n 0000 ! 00000030 n 0101 | round  \n"
        "00000030 06 n 01 ball 1 001 @ 00000010 n 0000 | a dance  \n"
        "00000040 18 n 01 Ball 2 001 @i 00000010 n 0000 | a person called so  \n"
    )
    (tmp_path / "index.noun").write_text(
        "  1 licence\nball n 3 1 @ 3 1 00000030 00000020 00000040  \nglobe n 1 1 @ 1 0 00000020  \nthing n 1 0 1 0 00000010  \n"
    )
    for name in ("verb", "adj", "adv"):
        (tmp_path / f"data.{name}").write_text("")
        (tmp_path / f"index.{name}").write_text("")
        (tmp_path / f"{name}.exc").write_text("")
    (tmp_path / "noun.exc").write_text("geese goose\n")
    (tmp_path / "cntlist.rev").write_text("ball%1:06:01:: 1 7\n")
    build(tmp_path, tmp_path)
    synsets = pq.read_table(tmp_path / "wordnet_synsets.parquet").to_pylist()
    assert [row["domain"] for row in synsets] == ["noun.Tops", "noun.artifact", "noun.artifact"]
    assert [row["hypernyms"] for row in synsets] == [[], [0], [0]]
    assert synsets[1]["antonyms"] == [2]
    senses = [tuple(row.values()) for row in pq.read_table(tmp_path / "wordnet_senses.parquet").to_pylist()]
    assert senses == [("ball", "n", 2, 7), ("ball", "n", 1, 0), ("globe", "n", 1, 0), ("thing", "n", 0, 0)]
    assert pq.read_table(tmp_path / "wordnet_forms.parquet").to_pylist() == [{"pos": "n", "form": "geese", "lemma": "goose"}]
