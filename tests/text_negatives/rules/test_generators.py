"""What holds for every generator."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgray.errors import ConfigError
from fgray.text_negatives.generator import GENERATORS, PLACEHOLDER, Tools, build_generator, chance

RULES = {"ce_clip": {"types": ["relation"]}, "negclip": {}, "spec_edits": {"per_type": 3}, "sugarcrepe": {}}


def test_the_names():
    assert GENERATORS.names() == sorted(RULES)
    for name in RULES:
        kind = GENERATORS.get(name)
        assert kind.name == name
        assert (kind.__doc__ or "").splitlines()[0].endswith(".")
        assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"typs": ["noun"]}, "unknown option 'typs' .*did you mean 'types'"),
        ({"types": ["nouns"]}, "option 'types'"),
        ({"types": []}, "option 'types'"),
        ({"types": "noun"}, "option 'types': Input should be a list"),
    ],
)
def test_wrong_options_are_one_clear_line(options, message):
    with pytest.raises(ConfigError, match=message):
        build_generator("negclip", options)


def test_an_unknown_generator():
    with pytest.raises(ConfigError, match="did you mean 'negclip'"):
        build_generator("negclp", {})


@pytest.fixture(scope="module")
def real(flickr, wordnet):
    """generator -> the negatives of 500 images' captions."""
    captions, vocabulary = flickr
    tools = Tools(0, False, wordnet, vocabulary)
    return {name: build_generator(name, options).generate(captions, tools) for name, options in RULES.items()}


@pytest.mark.parametrize("name", RULES)
def test_the_span_marks_the_edit(real, flickr, name):
    edits = 0
    for caption, found in zip(flickr[0], real[name], strict=True):
        for negative in found:
            if not negative.valid:
                assert (negative.text, negative.start, negative.end, negative.original) == (PLACEHOLDER, None, None, None)
                continue
            edits += 1
            text, start, end = negative.text, negative.start, negative.end
            assert 0 <= start <= end <= len(text)
            assert text[:start] + negative.original + text[end:] == caption.text
            assert text.lower() != caption.text.lower()
            assert text[start:end] != negative.original
    assert edits > 500


ORDERS = {
    "negclip": ["swap_noun_phrase", "swap_noun", "swap_adjective", "swap_verb", "swap_adverb"],
    "spec_edits": ["size", "position", "existence", "count"],
    "sugarcrepe": ["replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att"],
}


@pytest.mark.parametrize("name", ORDERS)
def test_types_come_in_one_order_and_as_often_as_asked(real, name):
    seen = set()
    for found in real[name]:
        ranks = [ORDERS[name].index(negative.type) for negative in found]
        assert ranks == sorted(ranks)
        assert all(ranks.count(rank) <= RULES[name].get("per_type", 1) for rank in ranks)
        assert len({negative.text for negative in found}) == len(found)
        seen.update(negative.type for negative in found)
    assert set(ORDERS[name]) - seen <= {"swap_adverb"}  # a rare one


@pytest.mark.parametrize("name", RULES)
def test_articles_fit_the_next_word(real, flickr, name):
    """An edit never writes "a apple" or "an dog" where the caption was right."""
    import re

    wrong = re.compile(r"\b(a [aeio]\w|an [bcdfgjklmnpqrstvwyz])", re.IGNORECASE)
    spoiled = [
        negative.text
        for caption, found in zip(flickr[0], real[name], strict=True)
        for negative in found
        if negative.valid
        and len(wrong.findall(negative.text)) > len(wrong.findall(caption.text))
        and not re.search(r"\ba (one|eu)", negative.text)
    ]
    assert spoiled == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", RULES)
def test_order_and_batch_do_not_matter(real, flickr, wordnet, name, data):
    captions, vocabulary = flickr
    numbers = data.draw(st.lists(st.integers(0, len(captions) - 1), min_size=1, max_size=8, unique=True))
    generator, tools = build_generator(name, RULES[name]), Tools(0, False, wordnet, vocabulary)
    split = data.draw(st.integers(0, len(numbers)))
    batches = [[captions[number] for number in part] for part in (numbers[:split], numbers[split:])]
    found = [negatives for batch in batches for negatives in generator.generate(batch, tools)]
    assert found == [real[name][number] for number in numbers]


@pytest.mark.parametrize("name", ["negclip", "spec_edits", "sugarcrepe"])
def test_another_seed_gives_other_negatives(real, flickr, wordnet, name):
    captions, vocabulary = flickr
    other = build_generator(name, RULES[name]).generate(captions[:300], Tools(1, False, wordnet, vocabulary))
    assert other != real[name][:300]


def test_the_source_of_chance_depends_on_seed_text_generator_and_type():
    draws = {
        chance(*parts).random()
        for parts in [(0, "a", "g", "t"), (1, "a", "g", "t"), (0, "b", "g", "t"), (0, "a", "h", "t"), (0, "a", "g", "u")]
    }
    assert len(draws) == 5
    assert chance(0, "a", "g", "t").random() == chance(0, "a", "g", "t").random()
