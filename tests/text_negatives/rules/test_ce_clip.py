import pytest

from fgray.errors import ConfigError
from fgray.text_negatives.generator import Parsed, Token, Tools, build_generator


class Fillings:
    """A mask filler that offers the same words for every gap: the test's input, not a model."""

    def __init__(self, *words):
        self.words, self.asked = words, []

    def fill(self, texts, originals, top_k):
        self.asked += list(zip(texts, originals, strict=True))
        return [[(word, 1.0 / (rank + 1)) for rank, word in enumerate(self.words[:top_k])] for _ in texts]


def texts(found):
    return [negative.text for negative in found]


def flags(found):
    return [negative.valid for negative in found]


def test_two_nouns_change_places_as_words(negatives):
    (relation,) = negatives("ce_clip", "A woman watches a man on a horse .", types=["relation"])
    assert relation.text == "A man watches a woman on a horse ."
    assert relation.valid
    assert relation.text[relation.start : relation.end] == "man watches a woman"
    assert relation.original == "woman watches a man"


def test_upstream_swaps_the_letters_wherever_they_stand(negatives):
    """'man' also stands in 'woman': with the first two nouns man and woman, upstream's three replaces give other words.

    A man sees a woman on a horse -> A ### sees a wo### on a horse -> (no 'woman' left to replace) -> A woman sees a wowoman …
    """
    (relation,) = negatives("ce_clip", "A man sees a woman on a horse .", types=["relation"], upstream=True)
    assert relation.text == "A woman sees a wowoman on a horse ."
    assert (
        relation.text[relation.start : relation.end] + relation.text[relation.end :]
        == "woman sees a wowoman on a horse ."[: len(relation.text) - relation.start]
    )
    assert relation.valid


def noun(text, at, start):
    return Token(text, text, "NOUN", "NN", "dep", at, start)


def test_upstream_spoils_its_own_mark_where_the_second_noun_is_a_letter_of_it(wordnet):
    """A man in t shirt -> A temp1 in t shirt -> A manemp1 in man shirman -> (no 'temp1' left to replace)."""
    caption = Parsed("A man in t shirt", (noun("man", 0, 2), noun("t", 1, 9), noun("shirt", 2, 11)), ())
    generator = build_generator("ce_clip", {"types": ["relation"]})
    ((relation,),) = generator.generate([caption], Tools(0, True, wordnet))
    assert relation.text == "A manemp1 in man shirman"
    assert relation.text[: relation.start] + relation.original + relation.text[relation.end :] == caption.text


def test_upstream_needs_three_nouns(negatives):
    (relation,) = negatives("ce_clip", "A man sees a horse .", types=["relation"], upstream=True)
    assert (relation.text, relation.valid, relation.start) == ("###", False, None)


@pytest.mark.parametrize(
    "caption",
    [
        "A man and a woman smile .",
        "A sink next to a mirror .",
        "A dog near a cat .",
        "A man hugs a woman .",
        "A group of people .",
        "Two dogs chase a cat .",
    ],
)
def test_no_swap_where_it_stays_true_or_breaks_the_grammar(negatives, caption):
    (relation,) = negatives("ce_clip", caption, types=["relation"])
    assert (relation.text, relation.valid) == ("###", False)


def test_the_four_come_in_order_and_the_4th_fitting_filling_is_taken(negatives):
    # of the fillings for "dog": Dog is the original, puppy a kind of it, animal its class, dogs a plural, quickly no noun
    filler = Fillings("Dog", "puppy", "animal", "dogs", "quickly", "cat", "horse", "goat", "zebra", "lion")
    found = negatives("ce_clip", "The dog sleeps .", types=["noun"], filler=filler)
    assert filler.asked == [("The <mask> sleeps .", "dog")]
    assert texts(found) == ["The zebra sleeps ."]
    found = negatives("ce_clip", "The dog sleeps .", types=["noun"], filler=filler, rank=1)
    assert texts(found) == ["The cat sleeps ."]


def test_the_order_is_relation_adjective_noun_verb(negatives):
    found = negatives(
        "ce_clip", "A red dog chases a man .", filler=Fillings("blue", "tree", "kicks"), types=["verb", "adjective", "relation", "noun"]
    )
    assert [negative.type for negative in found] == ["relation", "adjective", "noun", "verb"]
    assert flags(found) == [True] * 4
    assert found[1].text == "A blue dog chases a man ."
    assert found[3].text == "A red dog kicks a man ."


def test_the_last_fitting_filling_serves_where_there_are_fewer_than_the_rank(negatives):
    assert texts(negatives("ce_clip", "The dog sleeps .", types=["noun"], filler=Fillings("dog", "cat", "goat"))) == ["The goat sleeps ."]


def test_a_missing_word_and_a_missing_filling_are_placeholders(negatives):
    found = negatives("ce_clip", "The dog sleeps .", types=["adjective", "noun"], filler=Fillings("dog", "dogs", "puppy"))
    assert texts(found) == ["###", "###"]
    assert flags(found) == [False, False]


def test_the_masked_word_is_a_word_not_its_letters(negatives):
    filler = Fillings("cat")
    for seed in range(12):
        negatives("ce_clip", "The dogged hiker pets the dog .", types=["noun"], filler=filler, seed=seed)
    assert {text for text, _ in filler.asked} == {"The dogged <mask> pets the dog .", "The dogged hiker pets the <mask> ."}


def test_upstream_masks_the_first_occurrence_of_the_letters(negatives):
    filler = Fillings("a", "b", "c", "cat", "e")
    (noun,) = negatives("ce_clip", "Dogma: the dogma of dog", types=["noun"], upstream=True, filler=filler, seed=0)
    masked, original = filler.asked[0]
    assert masked.index("<mask>") == "Dogma: the dogma of dog".index(original)
    assert noun.text == masked.replace("<mask>", "cat")  # the 4th of five


def test_upstream_does_not_look_at_the_filling(negatives):
    (noun,) = negatives("ce_clip", "The dog sleeps .", types=["noun"], upstream=True, filler=Fillings("cat", "cow", "pig", "dog", "hen"))
    assert (noun.text, noun.valid) == ("The dog sleeps .", True)


def test_upstream_without_a_filling_is_a_placeholder(negatives):
    found = negatives("ce_clip", "The dog sleeps .", types=["noun", "adjective"], upstream=True, filler=Fillings())
    assert (texts(found), flags(found)) == (["###", "###"], [False, False])


def test_upstream_leaves_a_mask_that_the_caption_itself_holds(negatives):
    caption = "A <mask> sign and a dog ."
    for kind in ("noun", "verb"):
        (found,) = negatives("ce_clip", caption, types=[kind], upstream=True, filler=Fillings("cat"))
        assert found.text[: found.start] + found.original + found.text[found.end :] == caption


def test_upstream_fills_a_bare_mask_and_calls_it_valid(negatives):
    filler = Fillings("The", "A", "This", "junk", "It")
    (adjective,) = negatives("ce_clip", "The dog sleeps .", types=["adjective"], upstream=True, filler=filler)
    assert filler.asked == [("<mask>", "")]
    assert (adjective.text, adjective.valid) == ("junk", True)


def test_an_adjective_that_others_contradict_is_masked_first(negatives):
    filler = Fillings("green")
    for seed in range(10):
        (adjective,) = negatives("ce_clip", "A funny man in a red hat sits .", types=["adjective"], filler=filler, seed=seed)
        assert adjective.text == "A funny man in a green hat sits ."


def test_without_a_language_model_only_the_relation_is_made(negatives):
    with pytest.raises(ConfigError, match=r"a language model is needed.*types: \[relation\]"):
        negatives("ce_clip", "The dog sleeps .")


def test_a_filling_that_another_caption_of_the_image_mentions_is_refused(language, wordnet):
    from fgray.text_negatives.vocabulary import with_mentions

    captions = with_mentions(language.parse(["The dog sleeps .", "Beside a cat ."]), [["image"], ["image"]])
    filler = Fillings("cat", "horse")
    found = build_generator("ce_clip", {"types": ["noun"], "rank": 1}).generate(captions, Tools(0, False, wordnet, None, filler))
    assert found[0][0].text == "The horse sleeps ."
