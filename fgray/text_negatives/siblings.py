"""Words that may stand in the place of another, or beside it, and make a caption wrong but not odd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fgray.text_negatives.generator import Parsed, Tools
from fgray.text_negatives.grammar import children, frame, lower, modified, nouns, role, subject, visible_sense
from fgray.text_negatives.vocabulary import Vocabulary
from fgray.text_negatives.wordnet import WordNet
from fgray.text_negatives.words import (
    CONTRASTS,
    FIGURES,
    GENDERED,
    IDIOMATIC,
    NATURE,
    PEOPLE,
    SCENERY,
    VAGUE_VERBS,
    contrasts,
    exclude_each_other,
    near,
)

ANIMAL_STEPS, STEPS = 5, 3  # up to the common ancestor; animals are classed in many fine steps
VERB_STEPS = 2
ACTIONS = frozenset(f"verb.{name}" for name in ("motion", "contact", "consumption", "body", "competition", "creation", "communication"))
ADDED = ("noun.animal", "noun.artifact", "noun.food")
DECIDED = {"noun.animal": ("colour",), "noun.artifact": ("colour", "pattern"), "noun.food": ("colour",)}
"""What may be added unsaid, by WordNet's domain. Not material, nor anybody's hair: a bench is often wooden and a child blond, a hat
hides the rest; read beside their photographs (tests/verdicts), most of those negatives were true or could not be told."""
COLOURS = frozenset(CONTRASTS["colour"])

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
        near: what may name the same, by part of speech.
        senses: their senses.
        above: their senses and all that these are kinds of.
    """

    near: dict[str, frozenset[str]]
    senses: dict[str, frozenset[int]]
    above: dict[str, frozenset[int]]

    @classmethod
    def of(cls, caption: Parsed, wordnet: WordNet) -> Spoken:
        """Collect it for one caption."""
        words = caption.mentioned | {form for token in caption.tokens for form in (token.lemma, lower(token))}
        return cls(
            {pos: frozenset().union(*(near(word, pos) for word in words)) for pos in "nva"},
            {pos: frozenset().union(*(wordnet.senses(word, pos, common=True) for word in words)) for pos in "nv"},
            {pos: frozenset().union(*(wordnet.above(word, pos) for word in words)) for pos in "nv"},
        )

    def lacks(self, lemma: str, pos: str, wordnet: WordNet) -> bool:
        """Return whether a noun or verb says something new: no synonym, kind or class of anything said, nor near to it."""
        if (pos == "n" and lemma in IDIOMATIC) or not lemma.isalpha() or lemma in self.near[pos]:
            return False
        return self.above[pos].isdisjoint(wordnet.senses(lemma, pos, common=True)) and self.senses[pos].isdisjoint(
            wordnet.above(lemma, pos)
        )

    def lacks_attribute(self, adjective: str) -> bool:
        """Return whether no adjective said comes close to this one."""
        return adjective not in self.near["a"]


def noun_siblings(caption: Parsed, at: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return nouns that may replace one: WordNet siblings, seen in the same grammatical place, at home beside the caption's others.

    People are replaced by the other gender where the word has one; a role ("skier") by another role only.
    """
    token, vocabulary = caption.tokens[at], vocabulary_of(tools)
    if token.lemma in PEOPLE and any(lower(other) in GENDERED for other in caption.tokens):
        return {}
    company = [caption.tokens[i].lemma for i in nouns(caption) if i != at]
    adjectives = [lower(caption.tokens[i]) for i in range(at) if caption.tokens[i].pos == "ADJ" and modified(caption, i) == at]
    place = role(caption, at)
    found: Candidates = {}
    for lemma, word, steps in _nouns_beside(vocabulary, tools.wordnet, token.lemma, token.tag, frame(caption, at)):
        if token.dep != "ROOT" and place not in vocabulary.roles.get(lemma, {}):
            continue
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
    if tag != "NN":
        return vocabulary.words.get((tag, place), {})
    articled, bare, other = (vocabulary.words.get((tag, name), {}) for name in ("a", "bare", ""))
    if place == "":
        return {**articled, **other}
    here, elsewhere = (articled, bare) if place == "a" else (bare, articled)
    return {lemma: found for lemma, found in here.items() if found[1] * 3 >= elsewhere.get(lemma, ("", 0))[1]}


def verb_siblings(caption: Parsed, at: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return verbs that may replace one: actions of its kind in WordNet, seen in the same form, of the same doer, to the same object."""
    token, vocabulary = caption.tokens[at], vocabulary_of(tools)
    doer = subject(caption, at)
    if doer < 0 or children(caption, at, "auxpass", "agent", "xcomp", "ccomp"):
        return {}
    does = vocabulary.roles.get(caption.tokens[doer].lemma, {})
    undergoes = [vocabulary.roles.get(caption.tokens[i].lemma, {}) for i in children(caption, at, "dobj")]
    found: Candidates = {}
    for lemma, word in _verbs_beside(vocabulary, tools.wordnet, token.lemma, token.tag, frame(caption, at)):
        count = does.get(f"nsubj:{lemma}", 0)
        if count and all(f"dobj:{lemma}" in roles for roles in undergoes) and spoken.lacks(lemma, "v", tools.wordnet):
            found[word] = count**0.5
    return found


@lru_cache(maxsize=20_000)
def _verbs_beside(vocabulary: Vocabulary, wordnet: WordNet, verb: str, tag: str, place: str) -> list[tuple[str, str]]:
    """Return (lemma, word) of what may stand for a verb: actions whose first sense is of the same kind, or siblings in WordNet."""
    senses = wordnet.senses(verb, "v", common=True)[:3]
    if not senses or wordnet.domain(senses[0]) not in ACTIONS or verb in VAGUE_VERBS:
        return []
    found = []
    for lemma, (word, _) in vocabulary.words.get((tag, place), {}).items():
        others = wordnet.senses(lemma, "v", common=True)[:3]
        if not others or lemma in VAGUE_VERBS or wordnet.domain(others[0]) not in ACTIONS:
            continue
        siblings = any(wordnet.distance(a, b, VERB_STEPS) is not None for a in senses for b in others)
        if siblings or wordnet.domain(others[0]) == wordnet.domain(senses[0]):
            found.append((lemma, word))
    return found


def attribute_siblings(caption: Parsed, at: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return adjectives that may replace one: of the same dimension, or else its antonyms, seen with the noun."""
    word, noun = lower(caption.tokens[at]), caption.tokens[modified(caption, at)].lemma
    seen = vocabulary_of(tools).attributes.get(noun, {})
    options = contrasts(word) if any(word in group for group in CONTRASTS.values()) else sorted(tools.wordnet.antonyms(word, "a"))
    if {word, *options} & COLOURS and tools.wordnet.is_kind_of(noun, "n", "person"):
        return {}  # "a black man": not a matter of paint
    return {option: seen[option] ** 0.5 for option in options if option in seen and spoken.lacks_attribute(option)}


def new_attributes(caption: Parsed, noun: int, tools: Tools, spoken: Spoken) -> Candidates:
    """Return adjectives to put before a noun that has none: such as a picture decides, seen with the noun, not said of the image.

    People get none.
    """
    lemma = caption.tokens[noun].lemma
    seen, sense = vocabulary_of(tools).attributes.get(lemma, {}), visible_sense(tools.wordnet, lemma)
    if sense is None or lemma in NATURE:
        return {}
    words = {word for dimension in DECIDED.get(tools.wordnet.domain(sense), ()) for word in CONTRASTS[dimension]}
    return {word: 1.0 for word in sorted(words) if word in seen and spoken.lacks_attribute(word)}


def companions(caption: Parsed, noun: int, place: str, tools: Tools, spoken: Spoken) -> Candidates:
    """Return things to add beside a noun, in a role ("dobj:hold"): seen in it and together with the noun, not scenery or clothes."""
    vocabulary, lemma = vocabulary_of(tools), caption.tokens[noun].lemma
    things = _things(vocabulary, tools.wordnet, place)
    beside = [(thing, word, count) for thing, word, count in things if lemma in vocabulary.together.get(thing, {})]
    return {word: count**0.5 for thing, word, count in beside if spoken.lacks(thing, "n", tools.wordnet)}


@lru_cache(maxsize=20_000)
def _things(vocabulary: Vocabulary, wordnet: WordNet, place: str) -> list[tuple[str, str, int]]:
    """Return (lemma, word, occurrences) of countable things and animals seen in a role."""
    found = []
    for lemma, (word, _) in _fitting(vocabulary, "NN", "a").items():
        count, sense = vocabulary.roles.get(lemma, {}).get(place, 0), visible_sense(wordnet, lemma)
        if not count or sense is None or wordnet.domain(sense) not in ADDED or lemma in SCENERY or lemma in FIGURES or lemma in IDIOMATIC:
            continue
        if not any(wordnet.is_kind_of(lemma, "n", kind) for kind in ("clothing", "covering", "structure", "surface", "way", "facility")):
            found.append((lemma, word, count))
    return found
