"""Words that may stand in the place of another, or beside it, and make a caption wrong but not odd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fgray.text_negatives.generator import Parsed, Tools
from fgray.text_negatives.grammar import ANIMATE, frame, lower, modified, nouns, visible_sense
from fgray.text_negatives.vocabulary import Vocabulary
from fgray.text_negatives.wordnet import WordNet
from fgray.text_negatives.words import FIGURES, GENDERED, IDIOMATIC, PEOPLE, SCENERY, alike, contrasts, exclude_each_other, near

ANIMAL_STEPS, STEPS = 5, 3  # up to the common ancestor; animals are classed in many fine steps
VERB_STEPS = 2
BODILY = frozenset(("verb.motion", "verb.contact"))
ADDED = (*ANIMATE, "noun.artifact", "noun.food")

Candidates = dict[str, float]  # word as it goes into the caption -> weight of the draw


def vocabulary_of(tools: Tools) -> Vocabulary:
    """Return the vocabulary that the job has to give."""
    if tools.vocabulary is None:
        raise ValueError("Tools.vocabulary is missing: the generator needs_vocabulary")
    return tools.vocabulary


@dataclass(frozen=True)
class Spoken:
    """All that the caption and the other captions of its images say, so that what is said already is not taken for new.

    Attributes:
        words: in dictionary form and as they stand.
        near: what may name the same, by part of speech.
        senses: their senses.
        above: their senses and all that these are kinds of.
    """

    words: frozenset[str]
    near: dict[str, frozenset[str]]
    senses: dict[str, frozenset[int]]
    above: dict[str, frozenset[int]]

    @classmethod
    def of(cls, caption: Parsed, wordnet: WordNet) -> Spoken:
        """Collect it for one caption."""
        words = caption.mentioned | {form for token in caption.tokens for form in (token.lemma, lower(token))}
        return cls(
            words,
            {pos: frozenset().union(*(near(word, pos) for word in words)) for pos in "nv"},
            {pos: frozenset().union(*(wordnet.senses(word, pos, common=True) for word in words)) for pos in "nv"},
            {pos: frozenset().union(*(wordnet.above(word, pos) for word in words)) for pos in "nv"},
        )

    def lacks(self, lemma: str, pos: str, wordnet: WordNet) -> bool:
        """Return whether a noun or verb says something new: no synonym, kind or class of anything said, nor near to it."""
        if lemma in IDIOMATIC or not lemma.isalpha() or lemma in self.near[pos]:
            return False
        return self.above[pos].isdisjoint(wordnet.senses(lemma, pos, common=True)) and self.senses[pos].isdisjoint(
            wordnet.above(lemma, pos)
        )

    def lacks_attribute(self, adjective: str) -> bool:
        """Return whether no adjective said comes close to this one."""
        return adjective not in self.words and not any(alike(adjective, word) for word in self.words)


def noun_siblings(caption: Parsed, at: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return nouns that may replace one: WordNet siblings, seen in the same grammatical place, at home beside the caption's others.

    People are replaced by the other gender where the word has one; a role ("skier") by another role only.
    """
    token, vocabulary = caption.tokens[at], vocabulary_of(tools)
    if token.lemma in PEOPLE and any(lower(other) in GENDERED for other in caption.tokens):
        return {}
    company = [caption.tokens[i].lemma for i in nouns(caption) if i != at]
    adjectives = [lower(caption.tokens[i]) for i in range(at) if caption.tokens[i].pos == "ADJ" and modified(caption, i) == at]
    found: Candidates = {}
    for lemma, word, steps in _nouns_beside(vocabulary, tools.wordnet, token.lemma, token.tag, frame(caption, at)):
        together = [vocabulary.together.get(lemma, {}).get(noun, 0) > 0 for noun in company]
        together += [adjective in vocabulary.attributes.get(lemma, {}) for adjective in adjectives]
        if all(together) and spoken.lacks(lemma, "n", tools.wordnet):
            found[word] = 1 / steps
    return found


@lru_cache(maxsize=20_000)
def _nouns_beside(vocabulary: Vocabulary, wordnet: WordNet, noun: str, tag: str, place: str) -> list[tuple[str, str, int]]:
    """Return (lemma, word, steps) of what may stand for a noun whatever else the caption says."""
    sense = visible_sense(wordnet, noun)
    if sense is None:
        return []
    domain = wordnet.domain(sense)
    found = []
    for lemma, (word, _) in _fitting(vocabulary, tag, place).items():
        other = visible_sense(wordnet, lemma)
        if other is None or wordnet.domain(other) != domain or lemma in SCENERY:
            continue
        if domain == "noun.person":
            steps = 1 if exclude_each_other(noun, lemma) else None
        else:
            steps = wordnet.distance(sense, other, ANIMAL_STEPS if domain == "noun.animal" else STEPS)
        if steps is not None:
            found.append((lemma, word, steps))
    return found


def _fitting(vocabulary: Vocabulary, tag: str, place: str) -> Mapping[str, tuple[str, int]]:
    """Return the nouns seen in a grammatical place; where any article may stand, those seen after "a" too."""
    if place or tag != "NN":
        return vocabulary.words.get((tag, place), {})
    return {**vocabulary.words.get((tag, "a"), {}), **vocabulary.words.get((tag, ""), {})}


def verb_siblings(caption: Parsed, at: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return verbs that may replace one: of its kind in WordNet, seen in the same form with the same complements."""
    token = caption.tokens[at]
    found = _verbs_beside(vocabulary_of(tools), tools.wordnet, token.lemma, token.tag, frame(caption, at))
    return {word: count**0.5 for lemma, word, count in found if spoken.lacks(lemma, "v", tools.wordnet)}


@lru_cache(maxsize=20_000)
def _verbs_beside(vocabulary: Vocabulary, wordnet: WordNet, verb: str, tag: str, place: str) -> list[tuple[str, str, int]]:
    """Return (lemma, word, occurrences) of what may stand for a verb: siblings, and all of the same domain among bodily ones."""
    senses = wordnet.senses(verb, "v", common=True)[:3]
    found = []
    for lemma, (word, count) in vocabulary.words.get((tag, place), {}).items():
        others = wordnet.senses(lemma, "v", common=True)[:3]
        siblings = any(wordnet.distance(a, b, VERB_STEPS) is not None for a in senses for b in others)
        domains = {wordnet.domain(sense) for sense in senses[:1]} & {wordnet.domain(sense) for sense in others[:1]}
        if siblings or not domains.isdisjoint(BODILY):
            found.append((lemma, word, count))
    return found


def attribute_siblings(caption: Parsed, at: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return adjectives that may replace one: of the same dimension, or its antonyms, seen with the noun."""
    word, noun = lower(caption.tokens[at]), caption.tokens[modified(caption, at)].lemma
    seen = vocabulary_of(tools).attributes.get(noun, {})
    options = {*contrasts(word), *tools.wordnet.antonyms(word, "a")}
    return {option: seen[option] ** 0.5 for option in sorted(options) if option in seen and spoken.lacks_attribute(option)}


def new_attributes(caption: Parsed, noun: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return adjectives to put before a noun that has none: of a known dimension, seen with the noun, not said of the image."""
    seen = vocabulary_of(tools).attributes.get(caption.tokens[noun].lemma, {})
    return {word: 1.0 for word in sorted(seen) if contrasts(word) and spoken.lacks_attribute(word)}


def companions(caption: Parsed, noun: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return things to add beside a noun: seen together with it, none that photographs show unsaid (trees, clothes)."""
    vocabulary, wordnet = vocabulary_of(tools), tools.wordnet
    found = {}
    for lemma, count in vocabulary.together.get(caption.tokens[noun].lemma, {}).items():
        articled = vocabulary.words.get(("NN", "a"), {}).get(lemma)
        if articled is None or lemma in SCENERY or lemma in FIGURES or not spoken.lacks(lemma, "n", wordnet):
            continue
        sense = visible_sense(wordnet, lemma)
        if sense is not None and wordnet.domain(sense) in ADDED:
            found[articled[0]] = count**0.5
    return found
