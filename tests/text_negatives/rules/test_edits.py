import pytest

from fgray.text_negatives.edits import Edit, apply, article, like, swap


@pytest.mark.parametrize(
    ("word", "expected"),
    [("dog", "a"), ("otter", "an"), ("umbrella", "an"), ("unicorn", "a"), ("uniform", "a"), ("hour", "an"), ("horse", "a"),
     ("one-way", "a"), ("onion", "an"), ("usher", "an"), ("used", "a"), ("European", "a"), ("orange", "an"),
     ("unidentified", "an"), ("SUV", "an"), ("x-ray", "an"), ("RV", "an"), ("rviol", "a"), ("UFO", "a"), ("ATV", "an"), ("TV", "a"),
     ("8", "an"), ("11", "an"), ("110", "a")],
)  # fmt: skip
def test_the_article_follows_the_sound(word, expected):
    assert article(word) == expected


def test_a_replaced_word_takes_its_article_along(language):
    caption = language.parse(["He sees a dog ."])[0]
    negative = apply("t", caption, [Edit(10, 13, "otter")], "r")
    assert negative.text == "He sees an otter ."
    assert negative.text[negative.start : negative.end] == "an otter"
    assert negative.original == "a dog"


def test_the_capital_stays_in_front(language):
    caption = language.parse(["An old man holds a dog ."])[0]
    assert apply("t", caption, [Edit(3, 6, "young")], "r").text == "A young man holds a dog ."
    swapped = swap("t", caption, (0, 3), (4, 6), "r")
    assert swapped.text == "A dog holds an old man ."
    assert (swapped.start, swapped.end, swapped.original) == (0, 22, "An old man holds a dog")


@pytest.mark.parametrize("before", ['"', " ", "( "])
def test_the_capital_stays_with_the_first_word_whatever_stands_before_it(language, before):
    caption = language.parse([f"{before}A man holds a dog ."])[0]
    first = next(number for number, token in enumerate(caption.tokens) if token.text == "A")
    assert swap("t", caption, (first, first + 2), (first + 3, first + 5), "r").text == f"{before}A dog holds a man ."
    start = len(before)
    assert apply("t", caption, [Edit(start, start + 5, "two women")], "r").text == f"{before}Two women holds a dog ."


def test_a_name_keeps_its_capital(language):
    caption = language.parse(["Santa holds a child ."])[0]
    assert swap("t", caption, (0, 1), (2, 4), "r").text == "A child holds Santa ."


def test_an_insertion_has_an_empty_original(language):
    caption = language.parse(["A dog runs ."])[0]
    negative = apply("t", caption, [Edit(5, 5, " with a hat")], "r")
    assert negative.text == "A dog with a hat runs ."
    assert (negative.text[negative.start : negative.end], negative.original) == (" with a hat", "")


def test_letter_case_is_copied():
    assert [like("cat", original) for original in ("dog", "Dog", "DOG")] == ["cat", "Cat", "CAT"]
