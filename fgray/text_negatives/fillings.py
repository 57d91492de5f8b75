"""Which of a language model's words for a gap contradicts the word that stood there.

A likely word is often one that may be said of the same picture ("a black dog", "a young dog"), or no word of the same kind at all.
"""

from __future__ import annotations

from fgray.text_negatives.generator import Parsed, Token
from fgray.text_negatives.grammar import lower, visible_sense
from fgray.text_negatives.wordnet import POS, WordNet
from fgray.text_negatives.words import IDIOMATIC, VAGUE_VERBS, contrasts, exclude_each_other, near

BODILY = frozenset(("verb.motion", "verb.contact", "verb.stative"))
"""WordNet's domains of what one does with the whole body ("walk", "sit", "stand"): one at a time."""


def fits(caption: Parsed, token: Token, word: str, wordnet: WordNet) -> bool:
    """Return whether a filling is a word of the same kind and form that contradicts the original and says nothing said already.

    An adjective must be of the original's dimension (two colours) or its antonym, a noun something that can be seen, and of people
    one whom the original excludes, a verb another act that cannot be done at once.
    """
    pos, new = POS[token.pos], word.lower()
    bases = wordnet.bases(new, pos)
    if not new.isalpha() or len(new) < 2 or not bases or not _has_form_of(token, new, bases):
        return False
    said = caption.mentioned | {form for other in caption.tokens for form in (other.lemma, lower(other))}
    if not said.isdisjoint({new, *bases}) or wordnet.related(token.lemma, new, pos):
        return False
    if not near(token.lemma, pos).isdisjoint({new, *bases}):
        return False
    if token.pos == "ADJ":
        return new in (contrasts(lower(token)) or wordnet.antonyms(lower(token), "a"))
    return (_nouns_differ if token.pos == "NOUN" else _acts_differ)(token.lemma, bases[0], wordnet)


def _has_form_of(token: Token, new: str, bases: list[str]) -> bool:
    if token.pos == "NOUN":
        return new not in IDIOMATIC and (token.tag == "NNS") == (bases[0] != new)
    if token.pos != "VERB":
        return True
    same_ending = all(lower(token).endswith(ending) == new.endswith(ending) for ending in ("ing", "s"))
    return same_ending and (new in bases) == (token.tag in ("VB", "VBP"))


def _nouns_differ(noun: str, other: str, wordnet: WordNet) -> bool:
    mine, theirs = visible_sense(wordnet, noun), visible_sense(wordnet, other)
    if mine is None or theirs is None:
        return theirs is not None
    people = [wordnet.domain(sense) == "noun.person" for sense in (mine, theirs)]
    return not all(people) or exclude_each_other(noun, other)


def _acts_differ(verb: str, other: str, wordnet: WordNet) -> bool:
    if {verb, other} & VAGUE_VERBS:
        return False
    senses = [wordnet.senses(word, "v", common=True)[:1] for word in (verb, other)]
    return all(senses) and all(wordnet.domain(sense) in BODILY for (sense,) in senses)
