"""SugarCrepe's seven categories, from WordNet, word lists and the captions' own vocabulary.

Hsieh et al., "SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality", NeurIPS 2023. There a chat model
writes the negatives and people check them; here rules write them, so that no model is needed: a word is replaced by a sibling
(a co-hyponym, never a synonym, hypernym or hyponym) that other captions use in the same surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from fgray.text_negatives.edits import Edit, apply, article, like, swap
from fgray.text_negatives.generator import Generator, Negative, Parsed, Tools, chance
from fgray.text_negatives.grammar import (
    ANIMATE,
    attributes_of,
    children,
    coordinated,
    hyphenated,
    lower,
    modified,
    nouns,
    role,
    unit,
    visible_sense,
)
from fgray.text_negatives.siblings import (
    Candidates,
    Spoken,
    attribute_siblings,
    companions,
    new_attributes,
    noun_siblings,
    verb_siblings,
    vocabulary_of,
)
from fgray.text_negatives.swaps import adjectives, noun_phrases
from fgray.text_negatives.wordnet import WordNet
from fgray.text_negatives.words import CONTRASTS, PATHS, PREPOSITIONS

Category = Literal["replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att"]
ORDER: tuple[Category, ...] = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
Weighted = tuple[Callable[[], Negative], float]  # what makes the negative, weight of the draw


class SugarCrepe(Generator):
    """SugarCrepe's categories: replace, swap and add objects, attributes and relations.

    A caption gets at most one negative per category, in SugarCrepe's order; categories that it offers nothing for are left out.
    """

    name: ClassVar[str] = "sugarcrepe"
    needs_vocabulary: ClassVar[bool] = True

    categories: tuple[Category, ...] = Field(ORDER, min_length=1, description="which of SugarCrepe's seven categories")

    def generate(self, parsed: Sequence[Parsed], tools: Tools) -> list[list[Negative]]:
        """See ``Generator.generate``."""
        return [self._negatives(caption, tools) for caption in parsed]

    def _negatives(self, caption: Parsed, tools: Tools) -> list[Negative]:
        found: list[Negative] = []
        spoken = Spoken.of(caption, tools.wordnet)
        for category in (category for category in ORDER if category in self.categories):
            options = list(_MAKERS[category](caption, tools, spoken))
            if options:
                source = chance(tools.seed, caption.text, self.name, category)
                found.append(source.choices([make for make, _ in options], [weight for _, weight in options])[0]())
        return found


def _replace(kind: str, caption: Parsed, at: int, first: int, candidates: Candidates) -> Iterator[Weighted]:
    """Yield the caption with the tokens from `first` to `at` replaced by each candidate; the weights add up to one."""
    token, start = caption.tokens[at], caption.tokens[first].start
    old, total = caption.text[start : token.end], sum(candidates.values())
    for word, weight in candidates.items():
        new = like(word, caption.tokens[first].text[:1])
        yield partial(apply, kind, caption, [Edit(start, token.end, new)], f"{old} -> {new}"), weight / total


def _replaced_objects(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    for at in nouns(caption):
        yield from _replace("replace_obj", caption, at, unit(caption, at)[0], noun_siblings(caption, at, tools, spoken))


def _replaced_attributes(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    for at in attributes_of(caption):
        if not hyphenated(caption, at):
            yield from _replace("replace_att", caption, at, at, attribute_siblings(caption, at, tools, spoken))


def _replaced_relations(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    words = [lower(token) for token in caption.tokens]
    at = 0
    while at < len(words):
        length = next((n for n in (3, 2, 1) if at + n <= len(words) and " ".join(words[at : at + n]) in PREPOSITIONS), 0)
        if length and _is_spatial(caption, at, length, tools.wordnet):
            start, end = caption.tokens[at].start, caption.tokens[at + length - 1].end
            options = _opposites(caption, at, length, tools.wordnet)
            for option in options:
                new = like(option, caption.tokens[at].text[:1])
                reason = f"{caption.text[start:end]} -> {new}"
                yield partial(apply, "replace_rel", caption, [Edit(start, end, new)], reason), 1 / len(options)
        elif caption.tokens[at].pos == "VERB":
            yield from _replace("replace_rel", caption, at, at, verb_siblings(caption, at, tools, spoken))
        at += max(length, 1)


def _opposites(caption: Parsed, at: int, length: int, wordnet: WordNet) -> list[str]:
    options = PREPOSITIONS[" ".join(lower(token) for token in caption.tokens[at : at + length])]
    thing = caption.tokens[children(caption, at + length - 1, "pobj")[0]].lemma
    if lower(caption.tokens[at]) == "on" and length == 1 and wordnet.is_kind_of(thing, "n", "vehicle"):
        return [option for option in options if option != "under"]
    return [option for option in options if at == 0 or option.split()[0] != lower(caption.tokens[at - 1])]  # no "out out of"


def _is_spatial(caption: Parsed, at: int, length: int, wordnet: WordNet) -> bool:
    """Return whether a preposition says where a thing is, and its opposite can be said of the same thing."""
    last = caption.tokens[at + length - 1]
    word = lower(caption.tokens[at])
    if last.dep not in ("prep", "pcomp", "advmod") or caption.tokens[at].pos not in ("ADP", "ADV", "SCONJ"):
        return False
    objects = children(caption, at + length - 1, "pobj")
    if not objects or objects[0] < at:
        return False
    thing = caption.tokens[objects[0]]
    if word in ("onto", "off") and caption.tokens[last.head].lemma in ("hold", "hang", "show", "take"):
        return False
    if word == "over":
        return thing.pos == "NOUN" and caption.tokens[last.head].lemma not in ("look", "lean", "gaze")
    if word in ("up", "down"):
        return thing.pos == "NOUN" and thing.lemma not in PATHS
    if word == "on":
        return any(wordnet.is_kind_of(thing.lemma, "n", kind) for kind in ("furniture", "seat", "vehicle", "roof", "table"))
    if word == "in":
        return any(wordnet.is_kind_of(thing.lemma, "n", kind) for kind in ("vehicle", "building", "box", "room", "tent"))
    return thing.pos in ("NOUN", "PRON")


def _swapped_objects(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    """Yield swaps of noun phrases: living beings with each other, and things of which each was seen in the other's role."""
    roles = vocabulary_of(tools).roles
    for one, other in noun_phrases(caption):
        ends = one[1] - 1, other[1] - 1
        beings = [_is_being(caption, end, tools.wordnet) for end in ends]
        places = [role(caption, end) for end in ends]
        exchanged = [places[i] in roles.get(caption.tokens[ends[1 - i]].lemma, {}) for i in (0, 1)]
        if None not in beings and beings[0] == beings[1] and (beings[0] or (all(exchanged) and places[0] != places[1])):
            yield partial(swap, "swap_obj", caption, one, other, _reason(caption, one, other)), 1.0


def _is_being(caption: Parsed, noun: int, wordnet: WordNet) -> bool | None:
    sense = visible_sense(wordnet, caption.tokens[noun].lemma)
    return None if sense is None else wordnet.domain(sense) in ANIMATE


def _swapped_attributes(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    """Yield swaps of adjectives of one dimension (two colours)."""
    for one, other in adjectives(caption):
        words = [lower(caption.tokens[span[0]]) for span in (one, other)]
        if any(words[0] in group and words[1] in group for group in CONTRASTS.values()):
            yield partial(swap, "swap_att", caption, one, other, _reason(caption, one, other)), 1.0


def _reason(caption: Parsed, one: tuple[int, int], other: tuple[int, int]) -> str:
    return " <-> ".join(" ".join(token.text for token in caption.tokens[first:last]) for first, last in (one, other))


def _added_objects(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    """Yield the caption with one more thing: "and a" after an object, "with a" after who does something, "near a" at the end."""
    for at in nouns(caption):
        token = caption.tokens[at]
        for link, place in _links(caption, at, tools.wordnet):
            candidates = companions(caption, at, place, tools, spoken)
            total = sum(candidates.values())
            for word, weight in candidates.items():
                addition = f" {link} {article(word)} {word}"
                yield partial(apply, "add_obj", caption, [Edit(token.end, token.end, addition)], f"added {word}"), weight / total


def _links(caption: Parsed, at: int, wordnet: WordNet) -> Iterator[tuple[str, str]]:
    """Yield how something may be added after a noun, and the role that it then plays."""
    token, after = caption.tokens[at], caption.tokens[at + 1 :]
    if coordinated(caption, at):
        return
    place = role(caption, at)
    sense = visible_sense(wordnet, token.lemma)
    body = sense is not None and wordnet.domain(sense) == "noun.body"
    if (token.dep == "dobj" or place == "pobj:with") and not body:
        yield "and", place
    actor = token.dep in ("nsubj", "ROOT") and _is_being(caption, at, wordnet)
    if actor and not any(lower(caption.tokens[i]) == "with" for i in children(caption, at, "prep")):
        yield "with", "pobj:with"
    if all(following.pos == "PUNCT" for following in after):
        yield "near", "pobj:near"


def _added_attributes(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    described = {modified(caption, i) for i in attributes_of(caption)}
    for at in nouns(caption):
        candidates = {} if at in described else new_attributes(caption, at, tools, spoken)
        first = caption.tokens[unit(caption, at)[0]]
        for word in candidates:
            edit = Edit(first.start, first.end, f"{word} {first.text.lower() if first.text.istitle() else first.text}")
            yield partial(apply, "add_att", caption, [edit], f"added {word}"), 1 / len(candidates)


_MAKERS: dict[Category, Callable[[Parsed, Tools, Spoken], Iterator[Weighted]]] = {
    "replace_obj": _replaced_objects,
    "replace_att": _replaced_attributes,
    "replace_rel": _replaced_relations,
    "swap_obj": _swapped_objects,
    "swap_att": _swapped_attributes,
    "add_obj": _added_objects,
    "add_att": _added_attributes,
}
