"""Fillings read beside their photographs: which contradict the word that stood there."""

import pytest

from fgray.text_negatives.fillings import fits
from fgray.text_negatives.words import near

CAPTION = "A small black dog chases two girls who stand near a wall and watch ."


@pytest.fixture(scope="module")
def filling_fits(language, wordnet):
    (caption,) = language.parse([CAPTION])
    tokens = {token.text: token for token in caption.tokens}
    return lambda original, word: fits(caption, tokens[original], word, wordnet)


@pytest.mark.parametrize(
    ("original", "word"),
    [
        ("black", "white"),
        ("small", "big"),
        ("dog", "horse"),
        ("girls", "boys"),
        ("girls", "horses"),
        ("wall", "tower"),
        ("chases", "carries"),
        ("stand", "run"),
    ],
)
def test_words_that_contradict(filling_fits, original, word):
    assert filling_fits(original, word)


@pytest.mark.parametrize(
    ("original", "word"),
    [
        ("black", "young"),  # a black dog may be young
        ("black", "animal"),  # WordNet knows an adjective "animal"
        ("black", "three"),
        ("black", "dark"),
        ("small", "beautiful"),
        ("dog", "dog"),
        ("dog", "puppy"),
        ("dog", "hurry"),  # nothing that can be seen
        ("dog", "horses"),
        ("dog", "wall"),  # said already
        ("girls", "kids"),
        ("girls", "friends"),
        ("girls", "boy"),
        ("chases", "is"),
        ("chases", "comes"),
        ("chases", "sings"),  # who chases may sing
        ("chases", "chased"),
        ("chases", "follow"),
        ("stand", "watch"),
    ],
)
def test_words_that_do_not(filling_fits, original, word):
    assert not filling_fits(original, word)


@pytest.mark.parametrize(("original", "word"), [("suspended", "up"), ("colored", "blue"), ("suspended", "carry")])
def test_a_participle_stays_one(language, wordnet, original, word):
    (caption,) = language.parse([f"A climber is {original} over a hill ."])
    assert not fits(caption, caption.tokens[3], word, wordnet)


@pytest.mark.parametrize(("one", "other"), [("fight", "play"), ("hang", "stick")])
def test_what_a_photograph_does_not_tell_apart(one, other):
    assert other in near(one, "v")
    assert one in near(other, "v")
