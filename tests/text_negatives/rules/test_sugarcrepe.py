import json
import re
from collections import Counter

import pytest

from fgray.text_negatives.generator import Tools, build_generator
from fgray.text_negatives.vocabulary import build_vocabulary, with_mentions

# Dogs and cats sleep, run and jump on beds and mats, black, white or red; men and women hold balls and sticks.
CORPUS = [
    f"A {colour} {animal} {verb} on a {place} ."
    for colour in ("black", "white", "red")
    for animal in ("dog", "cat", "puppy")
    for verb in ("sleeps", "runs", "jumps")
    for place in ("bed", "mat")
] + [
    f"A {person} holds a {thing} near a {other} ."
    for person in ("man", "woman", "boy", "guy")
    for thing in ("ball", "stick")
    for other in ("car", "dog")
]
CORPUS += [f"A {person} holds a ball and a stick ." for person in ("man", "woman")]


@pytest.fixture(scope="module")
def vocabulary(language):
    return build_vocabulary(language.parse(CORPUS))


@pytest.fixture
def made(negatives, vocabulary):
    def make(category, caption):
        found = {seed: negatives("sugarcrepe", caption, categories=[category], vocabulary=vocabulary, seed=seed) for seed in range(40)}
        return {negative.text for several in found.values() for negative in several}

    return make


def test_an_object_is_replaced_by_a_sibling_never_a_kind(made):
    found = made("replace_obj", "A black dog sleeps on a bed .")
    assert "A black cat sleeps on a bed ." in found
    assert not any("puppy" in text for text in found)


def test_people_are_replaced_by_others_not_by_another_word_for_them(made):
    assert made("replace_obj", "A man holds a ball .") >= {"A woman holds a ball ."}
    assert not any("guy" in text for text in made("replace_obj", "A man holds a ball ."))


def test_a_pronoun_keeps_its_person(made):
    assert not any("woman" in text for text in made("replace_obj", "A man holds a ball near his dog ."))


def test_an_attribute_is_replaced_by_one_of_its_kind(made):
    assert made("replace_att", "A black dog sleeps on a bed .") == {"A white dog sleeps on a bed .", "A red dog sleeps on a bed ."}


def test_a_relation_is_replaced_by_its_opposite_or_another_action(made):
    found = made("replace_rel", "A man holds a ball near a car .")
    assert "A man holds a ball far away from a car ." in found
    assert made("replace_rel", "A black dog runs on a bed .") >= {"A black dog jumps on a bed ."}


def test_no_relation_says_a_word_twice(made):
    assert made("replace_rel", "The dog steps into the water .") == {"The dog steps out of the water ."}
    assert made("replace_rel", "The dog steps out into the water .") == set()


def test_objects_are_swapped(made):
    assert made("swap_obj", "A man holds a dog .") == {"A dog holds a man ."}


def test_attributes_of_one_dimension_are_swapped(made):
    assert made("swap_att", "A black dog sits on a red bed .") == {"A red dog sits on a black bed ."}
    assert made("swap_att", "A young dog sits on a red bed .") == set()


def test_an_object_is_added(made):
    found = made("add_obj", "A man holds a ball .")
    assert "A man holds a ball and a stick ." in found
    assert "A man holds a ball near a car ." in found


def test_an_attribute_is_added_with_its_article(made, negatives, vocabulary):
    found = made("add_att", "A dog sits on a bed .")
    assert found == {"A black dog sits on a bed .", "A white dog sits on a bed .", "A red dog sits on a bed ."}


def test_neither_material_nor_hair_is_added_unsaid(language, negatives):
    """A ramp in a photograph may well be wooden, and a boy blond."""
    corpus = ["A blond boy on a wooden ramp .", "A bald boy on a metal ramp .", "A blue ramp ."] * 2
    vocabulary = build_vocabulary(language.parse(corpus))
    found = [negatives("sugarcrepe", "A boy on a ramp .", categories=["add_att"], vocabulary=vocabulary, seed=seed) for seed in range(20)]
    assert {negative.text for several in found for negative in several} == {"A boy on a blue ramp ."}


def test_a_brown_dog_may_be_called_red(language, negatives):
    vocabulary = build_vocabulary(language.parse(["A red dog .", "A black dog ."] * 2))
    found = [negatives("sugarcrepe", "A brown dog .", categories=["replace_att"], vocabulary=vocabulary, seed=seed) for seed in range(20)]
    assert not any("red" in negative.text for several in found for negative in several)


def test_what_other_captions_of_the_image_say_is_not_taken_for_wrong(language, wordnet, vocabulary):
    captions = with_mentions(language.parse(["A black dog sleeps on a bed .", "The white cat ."]), [["1.jpg"], ["1.jpg"]])
    generator = build_generator("sugarcrepe", {"categories": ["replace_obj", "replace_att"]})
    texts = {
        negative.text for seed in range(40) for negative in generator.generate(captions[:1], Tools(seed, False, wordnet, vocabulary))[0]
    }
    assert not any("cat" in text or "white" in text for text in texts)
    assert "A red dog sleeps on a bed ." in texts


def test_the_vocabulary_does_not_depend_on_the_order(language, vocabulary):
    again = build_vocabulary(language.parse(CORPUS[::-1]))
    assert (again.words, again.together, again.attributes, again.roles) == (
        vocabulary.words, vocabulary.together, vocabulary.attributes, vocabulary.roles,
    )  # fmt: skip
    assert again.fingerprint == vocabulary.fingerprint
    assert build_vocabulary(language.parse(CORPUS[1:])).fingerprint != vocabulary.fingerprint


def growth(pairs):
    return [len(re.findall(r"\w+", negative)) - len(re.findall(r"\w+", caption)) for caption, negative in pairs]


def test_the_categories_look_like_the_official_ones(data_root, flickr, wordnet):
    """Additions add words, swaps add none, replacements few; as in SugarCrepe's own files."""
    captions, vocabulary = flickr
    found = build_generator("sugarcrepe", {}).generate(captions, Tools(0, False, wordnet, vocabulary))
    ours: dict[str, list[tuple[str, str]]] = {}
    for caption, several in zip(captions, found, strict=True):
        for negative in several:
            ours.setdefault(negative.type, []).append((caption.text, negative.text))
    for category, pairs in ours.items():
        rows = json.loads((data_root / "annotations" / "sugarcrepe" / f"{category}.json").read_text()).values()
        official = Counter(growth((row["caption"], row["negative_caption"]) for row in rows)).most_common(1)[0][0]
        counts = Counter(growth(pairs))
        assert len(pairs) > 20
        if category.startswith("add"):
            assert min(counts) > 0 and official > 0
        else:
            assert counts.most_common(1)[0][0] == official == 0
