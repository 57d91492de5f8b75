"""SugarCrepe's seven categories, from WordNet, word lists and the captions' own vocabulary.

Hsieh et al., "SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality", NeurIPS 2023. There a chat model
writes the negatives and people check them; here rules write them, so that no model is needed: a word is replaced by a sibling
(a co-hyponym, never a synonym, hypernym or hyponym) that other captions use in the same surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from fgray.text_negatives.edits import Edit, apply, article, like, swap
from fgray.text_negatives.generator import Generator, Negative, Parsed, Tools, chance
from fgray.text_negatives.grammar import (
    ANIMATE,
    attributes_of,
    children,
    coordinated,
    lower,
    modified,
    nouns,
    phrase,
    unit,
    visible_sense,
)
from fgray.text_negatives.siblings import Candidates, Spoken, attribute_siblings, companions, new_attributes, noun_siblings, verb_siblings
from fgray.text_negatives.swaps import adjectives, noun_phrases
from fgray.text_negatives.wordnet import WordNet
from fgray.text_negatives.words import CONTRASTS, PATHS, PREPOSITIONS

Category = Literal["replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att"]
ORDER: tuple[Category, ...] = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
Weighted = tuple[Negative, float]


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
                found += source.choices([negative for negative, _ in options], [weight for _, weight in options])
        return found


def _replace(kind: str, caption: Parsed, at: int, first: int, candidates: Candidates) -> Iterator[Weighted]:
    """Yield the caption with the tokens from `first` to `at` replaced by each candidate; the weights add up to one."""
    token, start = caption.tokens[at], caption.tokens[first].start
    old, total = caption.text[start : token.end], sum(candidates.values())
    for word, weight in candidates.items():
        new = like(word, caption.tokens[first].text[:1])
        yield apply(kind, caption, [Edit(start, token.end, new)], f"{old} -> {new}"), weight / total


def _replaced_objects(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    for at in nouns(caption):
        yield from _replace("replace_obj", caption, at, unit(caption, at)[0], noun_siblings(caption, at, tools, spoken))


def _replaced_attributes(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    for at in attributes_of(caption):
        if not _hyphenated(caption, at):
            yield from _replace("replace_att", caption, at, at, attribute_siblings(caption, at, tools, spoken))


def _hyphenated(caption: Parsed, at: int) -> bool:
    return "-" in caption.text[max(caption.tokens[at].start - 1, 0) : caption.tokens[at].end + 1]


def _replaced_relations(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    words = [lower(token) for token in caption.tokens]
    at = 0
    while at < len(words):
        length = next((n for n in (3, 2, 1) if at + n <= len(words) and " ".join(words[at : at + n]) in PREPOSITIONS), 0)
        if length and _is_spatial(caption, at, length, tools.wordnet):
            start, end = caption.tokens[at].start, caption.tokens[at + length - 1].end
            options = PREPOSITIONS[" ".join(words[at : at + length])]
            for option in options:
                new = like(option, caption.tokens[at].text[:1])
                yield apply("replace_rel", caption, [Edit(start, end, new)], f"{caption.text[start:end]} -> {new}"), 1 / len(options)
        elif caption.tokens[at].pos == "VERB":
            yield from _replace("replace_rel", caption, at, at, verb_siblings(caption, at, tools, spoken))
        at += max(length, 1)


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
    if length > 1 or word in ("behind", "near", "beside", "above", "under", "underneath", "beneath", "below", "inside", "into", "onto"):
        return thing.pos in ("NOUN", "PRON")
    if word == "over":
        return thing.pos == "NOUN" and caption.tokens[last.head].lemma not in ("look", "lean", "gaze")
    if word in ("up", "down"):
        return thing.pos == "NOUN" and thing.lemma not in PATHS
    if word == "on":
        return any(wordnet.is_kind_of(thing.lemma, "n", kind) for kind in ("furniture", "seat", "vehicle", "roof", "table"))
    if word == "in":
        return any(wordnet.is_kind_of(thing.lemma, "n", kind) for kind in ("vehicle", "building", "box", "room", "tent"))
    return thing.pos == "NOUN"


def _swapped_objects(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    """Yield swaps of noun phrases; living beings with each other, things with each other, as far as there are such."""
    made = []
    for one, other in noun_phrases(caption):
        beings = [_is_being(caption, span[1] - 1, tools.wordnet) for span in (one, other)]
        if None not in beings and beings[0] == beings[1]:
            made.append(swap("swap_obj", caption, one, other, _reason(caption, one, other)))
    yield from ((negative, 1.0) for negative in made)


def _is_being(caption: Parsed, noun: int, wordnet: WordNet) -> bool | None:
    sense = visible_sense(wordnet, caption.tokens[noun].lemma)
    return None if sense is None else wordnet.domain(sense) in ANIMATE


def _swapped_attributes(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    """Yield swaps of adjectives of one dimension (two colours)."""
    for one, other in adjectives(caption):
        words = [lower(caption.tokens[span[0]]) for span in (one, other)]
        if any(words[0] in group and words[1] in group for group in CONTRASTS.values()):
            yield swap("swap_att", caption, one, other, _reason(caption, one, other)), 1.0


def _reason(caption: Parsed, one: tuple[int, int], other: tuple[int, int]) -> str:
    return " <-> ".join(" ".join(token.text for token in caption.tokens[first:last]) for first, last in (one, other))


def _added_objects(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    """Yield the caption with one more thing: "… and a cat" after an object, "with a cat" after who does something."""
    for at in nouns(caption):
        token = caption.tokens[at]
        if coordinated(caption, at) or phrase(caption, at) is None:
            continue
        link = {"dobj": "and", "pobj": "and", "nsubj": "with", "ROOT": "with"}.get(token.dep)
        taken = any(lower(caption.tokens[i]) == "with" for i in children(caption, at, "prep"))
        if link is None or (link == "with" and (taken or not _is_being(caption, at, tools.wordnet))):
            continue
        candidates = companions(caption, at, tools, spoken)
        total = sum(candidates.values())
        for word, weight in candidates.items():
            addition = f" {link} {article(word)} {word}"
            yield apply("add_obj", caption, [Edit(token.end, token.end, addition)], f"added {word}"), weight / total


def _added_attributes(caption: Parsed, tools: Tools, spoken: Spoken) -> Iterator[Weighted]:
    for at in nouns(caption):
        if any(modified(caption, i) == at for i in attributes_of(caption)):
            continue
        start = caption.tokens[unit(caption, at)[0]].start
        candidates = new_attributes(caption, at, tools, spoken)
        for word in candidates:
            yield apply("add_att", caption, [Edit(start, start, f"{word} ")], f"added {word}"), 1 / len(candidates)


_MAKERS: dict[Category, Callable[[Parsed, Tools, Spoken], Iterator[Weighted]]] = {
    "replace_obj": _replaced_objects,
    "replace_att": _replaced_attributes,
    "replace_rel": _replaced_relations,
    "swap_obj": _swapped_objects,
    "swap_att": _swapped_attributes,
    "add_obj": _added_objects,
    "add_att": _added_attributes,
}
