import pytest


def only(negatives, concept, caption, **options):
    return [negative.text for negative in negatives("spec_edits", caption, types=[concept], **options)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A large ball rolls .", "A small ball rolls ."),
        ("A large dog sleeps by a cat .", "A small dog sleeps by a cat ."),
        ("Tall trees stand by a house .", "Short trees stand by a house ."),
        ("The ball is bigger than the box .", "The ball is smaller than the box ."),
    ],
)
def test_sizes(negatives, caption, expected):
    assert only(negatives, "size", caption) == [expected]


@pytest.mark.parametrize(
    "caption", ["A little girl sleeps .", "A long-haired dog sleeps .", "A dog sleeps .", "A large dog sleeps .", "A biker gets big air ."]
)
def test_no_size_to_change(negatives, caption):
    assert only(negatives, "size", caption) == []


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog to the left of a cat .", "A dog to the right of a cat ."),
        ("A man stands in front of a car .", "A man stands behind a car ."),
        ("A cat on top of a table .", "A cat below a table ."),
        ("A plane above a house .", "A plane below a house ."),
        ("A bird in the background .", "A bird in the foreground ."),
        ("A man at the top of the stairs .", "A man at the bottom of the stairs ."),
    ],
)
def test_positions(negatives, caption, expected):
    assert only(negatives, "position", caption) == [expected]


@pytest.mark.parametrize(
    "caption", ["A woman in a red top .", "A man left the room .", "A boy looks over his shoulder .", "Right before noon ."]
)
def test_no_position_to_change(negatives, caption):
    assert only(negatives, "position", caption) == []


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man with a hat .", "A man without a hat ."),
        ("A man without a shirt .", "A man with a shirt ."),
        ("There is a dog in the room .", "There is no dog in the room ."),
        ("There is no dog in the room .", "There is a dog in the room ."),
        ("There is no elephant in the room .", "There is an elephant in the room ."),
        ("There are no dogs in the room .", "There are dogs in the room ."),
        ("No dogs are on the beach .", "Dogs are on the beach ."),
        ("A woman wearing a scarf .", "A woman not wearing a scarf ."),
        ("Wearing a hat , a man walks .", "Not wearing a hat , a man walks ."),
        ("The house has a chimney .", "The house has no chimney ."),
    ],
)
def test_existence(negatives, caption, expected):
    assert only(negatives, "existence", caption) == [expected]


@pytest.mark.parametrize(
    "caption",
    ["Two men beside a no skiing sign .", "A ground covered with snow .", "A man plays with his dog .", "Two boys with each other ."],
)
def test_with_that_does_not_say_what_is_there(negatives, caption):
    assert only(negatives, "existence", caption) == []


def test_counts_change_to_any_other_number(negatives):
    found = only(negatives, "count", "Two dogs sleep .", per_type=9)
    assert sorted(found) == sorted(f"{number} dogs sleep ." for number in ("Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"))


def test_one_and_many_take_their_nouns_along(negatives):
    assert "He holds one box ." in only(negatives, "count", "He holds two boxes .", per_type=9)
    assert "He sees three women ." in only(negatives, "count", "He sees one woman .", per_type=9)
    assert "A photo of 4 dogs ." in only(negatives, "count", "A photo of 3 dogs .", per_type=9)


@pytest.mark.parametrize("caption", ["A two-tone car .", "A bus number 5 .", "One of the dogs sleeps ."])
def test_numbers_that_count_nothing(negatives, caption):
    assert only(negatives, "count", caption) == []


def test_a_concept_gives_as_many_as_asked(negatives):
    found = negatives("spec_edits", "Two large benches left of a tall tree .", per_type=2)
    assert [negative.type for negative in found].count("size") == 2
    assert [negative.type for negative in found].count("count") == 2
