"""Pairs of words or phrases of a caption whose exchange makes it wrong; NegCLIP's and SugarCrepe's swaps draw from them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from fgray.text_negatives.generator import Parsed
from fgray.text_negatives.grammar import (
    attributes_of,
    children,
    coordinated,
    interchangeable,
    lower,
    modified,
    nouns,
    phrase,
    subject,
    swappable,
    unit,
)
from fgray.text_negatives.words import near

Span = tuple[int, int]  # first token, one past the last
Pairs = list[tuple[Span, Span]]


def noun_phrases(caption: Parsed) -> Pairs:
    """Return noun phrases, articles and adjectives included, that may change places: of one number, not said alike of both."""
    found = []
    for one, other in combinations(nouns(caption), 2):
        left, right = phrase(caption, one), phrase(caption, other)
        if left is None or right is None or caption.tokens[one].tag != caption.tokens[other].tag or interchangeable(caption, one, other):
            continue
        if any(token.pos == "PRON" for first, last in (left, right) for token in caption.tokens[first:last]):
            continue  # "his bike" would lose the one whom "his" means
        found.append((left, right))
    return found


def nouns_alone(caption: Parsed) -> Pairs:
    """Return nouns that may change places while articles and adjectives stay where they are."""
    pairs = [pair for pair in combinations(nouns(caption), 2) if swappable(caption, *pair) and not interchangeable(caption, *pair)]
    return [(unit(caption, one), unit(caption, other)) for one, other in pairs]


def adjectives(caption: Parsed) -> Pairs:
    """Return adjectives of different things that may change places."""
    owner = {i: modified(caption, i) for i in attributes_of(caption) if caption.tokens[i].text.isalpha()}
    of: dict[int, set[str]] = {}
    for adjective, noun in owner.items():
        of.setdefault(noun, set()).add(lower(caption.tokens[adjective]))
    found = []
    for one, other in combinations(owner, 2):
        if owner[one] == owner[other] or caption.tokens[owner[one]].lemma == caption.tokens[owner[other]].lemma:
            continue
        words = lower(caption.tokens[one]), lower(caption.tokens[other])
        if words[0] in of[owner[other]] or words[1] in of[owner[one]] or words[1] in near(words[0], "a") or {*words} & UNSWAPPED:
            continue
        if caption.tokens[one].tag == caption.tokens[other].tag:
            found.append(((one, one + 1), (other, other + 1)))
    return found


UNSWAPPED = frozenset(
    ("other", "same", "such", "own", "many", "several", "few", "various", "different", "another", "more", "most", "next", "close", "mid")
)
"""Adjectives that count or compare, and one of "in mid air"."""


def verbs(caption: Parsed) -> Pairs:
    """Return verbs that may change places: of one active form, with the same kind of complement, done by or to different things."""
    found = []
    active = [i for i, token in enumerate(caption.tokens) if token.pos == "VERB" and token.tag != "VBN" and token.text.isalpha()]
    for one, other in combinations(active, 2):
        left, right = caption.tokens[one], caption.tokens[other]
        if left.tag != right.tag or right.lemma in near(left.lemma, "v") or any(children(caption, i, "prt") for i in (one, other)):
            continue
        objects = [[caption.tokens[i].lemma for i in children(caption, verb, "dobj")] for verb in (one, other)]
        if (
            any(_is_doubtful(caption, verb) for verb in (one, other))
            or bool(objects[0]) != bool(objects[1])
            or (objects[0] and objects[0] == objects[1])
        ):
            continue
        places = [_first_preposition(caption, verb) for verb in (one, other)]
        doers = subject(caption, one), subject(caption, other)
        if objects[0] or (places[0] == places[1] and -1 not in doers and _apart(caption, *doers)):
            found.append(((one, one + 1), (other, other + 1)))
    return found


def _is_doubtful(caption: Parsed, verb: int) -> bool:
    """Return whether a preposition stands between a verb and its object, which the parser then mistook for one."""
    between = (caption.tokens[i].pos for at in children(caption, verb, "dobj") for i in range(verb + 1, at))
    return "ADP" in between


def _apart(caption: Parsed, one: int, other: int) -> bool:
    return caption.tokens[one].lemma != caption.tokens[other].lemma


def _first_preposition(caption: Parsed, verb: int) -> str:
    return next((lower(caption.tokens[i]) for i in children(caption, verb, "prep") if i > verb), "")


def adverbs(caption: Parsed) -> Pairs:
    """Return adverbs of manner or degree, of different verbs or adjectives, that may change places."""
    found = [i for i, token in enumerate(caption.tokens) if token.pos == "ADV" and token.text.isalpha() and lower(token).endswith("ly")]
    return [
        ((one, one + 1), (other, other + 1))
        for one, other in combinations(found, 2)
        if lower(caption.tokens[one]) != lower(caption.tokens[other])
        and caption.tokens[one].head != caption.tokens[other].head
        and not coordinated(caption, one)
        and not coordinated(caption, other)
    ]


FINDERS: dict[str, Callable[[Parsed], Pairs]] = {
    "noun_phrase": noun_phrases,
    "noun": nouns_alone,
    "adjective": adjectives,
    "verb": verbs,
    "adverb": adverbs,
}
