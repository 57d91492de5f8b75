"""What the rules ask about a parsed caption: phrases, frames, links between nouns. Tokens are named by their numbers."""

from __future__ import annotations

from functools import lru_cache

from fgray.text_negatives.generator import Parsed, Token
from fgray.text_negatives.wordnet import WordNet
from fgray.text_negatives.words import IDIOMATIC, SYMMETRIC_LINKS, SYMMETRIC_VERBS

ARTICLES = frozenset(("a", "an", "another", "one", "each", "every"))
VISIBLE = ("noun.animal", "noun.person", "noun.artifact", "noun.food", "noun.plant", "noun.object", "noun.body")
ANIMATE = ("noun.person", "noun.animal")


def lower(token: Token) -> str:
    """Return the word in lower case."""
    return token.text.lower()


def children(caption: Parsed, at: int, *deps: str) -> list[int]:
    """Return what depends on a token, in order; with `deps`, by these labels only."""
    return [i for i, token in enumerate(caption.tokens) if token.head == at and i != at and (not deps or token.dep in deps)]


def frame(caption: Parsed, at: int) -> str:
    """Return the surroundings that a noun or verb needs to be grammatical.

    A singular noun: ``a`` after an indefinite article, ``bare`` without any determiner, else empty (any noun fits); a plural: empty.
    A verb: ``OBJECT PARTICLE PREPOSITIONS CLAUSE``, each part empty where there is none, ``NP`` for an object, ``S`` for a clause.
    """
    token = caption.tokens[at]
    if token.pos != "VERB":
        if token.tag != "NN":
            return ""
        before = [lower(caption.tokens[i]) for i in children(caption, at, "det", "poss", "nummod", "predet")]
        return "a" if any(word in ARTICLES for word in before) else "" if before else "bare"
    found = "NP" if children(caption, at, "dobj", "dative", "attr", "oprd", "acomp") else ""
    particle = " ".join(lower(caption.tokens[i]) for i in children(caption, at, "prt"))
    after = [i for i in children(caption, at, "prep", "advmod") if i > at]
    places = " ".join(lower(caption.tokens[i]) for i in after[:1])
    clause = "S" if children(caption, at, "xcomp", "ccomp", "agent", "auxpass", "nsubjpass") else ""
    return "|".join((found, particle, places, clause))


def role(caption: Parsed, noun: int) -> str:
    """Return what governs a noun, as ``LABEL:LEMMA`` ("dobj:hold", "pobj:on"); for one in "this and that", what governs the first."""
    token = caption.tokens[noun]
    while token.dep == "conj" and caption.tokens[token.head] is not token:
        token = caption.tokens[token.head]
    return f"{token.dep}:{caption.tokens[token.head].lemma}"


def unit(caption: Parsed, at: int) -> tuple[int, int]:
    """Return a noun with the nouns compounded before it, as (first token, one past the last)."""
    first = at
    while first > 0 and caption.tokens[first - 1].dep == "compound" and caption.tokens[first - 1].head in range(first, at + 1):
        first -= 1
    return first, at + 1


def phrase(caption: Parsed, at: int) -> tuple[int, int] | None:
    """Return the noun phrase that ends with this noun; None where the noun ends none."""
    return next((chunk for chunk in caption.chunks if chunk[1] == at + 1), None)


@lru_cache(maxsize=100_000)
def visible_sense(wordnet: WordNet, lemma: str) -> int | None:
    """Return the most frequent sense of a noun that can be pictured, among its first three; None where there is none."""
    senses = wordnet.senses(lemma, "n")[:3]
    return next((sense for sense in senses if wordnet.domain(sense) in VISIBLE), None)


def nouns(caption: Parsed) -> list[int]:
    """Return the nouns that head a noun phrase and are more than part of an idiom."""
    return [
        i
        for i, token in enumerate(caption.tokens)
        if token.pos == "NOUN"
        and token.dep not in ("compound", "npadvmod", "nmod", "amod", "advmod")
        and token.tag in ("NN", "NNS")
        and token.lemma not in IDIOMATIC
        and lower(token) not in IDIOMATIC
        and token.text.isalpha()
        and not hyphenated(caption, i)
        and not any(caption.tokens[j].text == "of" for j in children(caption, i, "prep"))
        and phrase(caption, i) is not None
    ]


def hyphenated(caption: Parsed, at: int) -> bool:
    """Return whether a token is part of a word with a hyphen, which spaCy takes apart ("long-haired")."""
    token = caption.tokens[at]
    return "-" in caption.text[max(token.start - 1, 0) : token.end + 1]


def coordinated(caption: Parsed, at: int) -> bool:
    """Return whether a token is part of "this and that"."""
    return caption.tokens[at].dep == "conj" or bool(children(caption, at, "conj", "cc"))


def attributes_of(caption: Parsed) -> list[int]:
    """Return the adjectives that stand before a noun, those coordinated with such a one included."""
    return [i for i, token in enumerate(caption.tokens) if token.pos == "ADJ" and modified(caption, i) > i]


def modified(caption: Parsed, adjective: int) -> int:
    """Return the noun that an adjective modifies; -1 where it modifies none."""
    at = adjective
    while caption.tokens[at].dep == "conj" and caption.tokens[caption.tokens[at].head].pos == "ADJ" and caption.tokens[at].head != at:
        at = caption.tokens[at].head
    head = caption.tokens[at].head
    return head if caption.tokens[at].dep == "amod" and caption.tokens[head].pos == "NOUN" else -1


def path(caption: Parsed, one: int, other: int) -> list[int]:
    """Return the tokens between two in the dependency tree, both ends left out."""
    up, beyond = _to_root(caption, one), _to_root(caption, other)
    meet = next((node for node in up if node in beyond), None)
    if meet is None:
        return []
    nodes = [*up[: up.index(meet) + 1], *reversed(beyond[: beyond.index(meet)])]
    return [node for node in nodes if node not in (one, other)]


def _to_root(caption: Parsed, at: int) -> list[int]:
    nodes = [at]
    while caption.tokens[nodes[-1]].head not in nodes:
        nodes.append(caption.tokens[nodes[-1]].head)
    return nodes


def interchangeable(caption: Parsed, one: int, other: int) -> bool:
    """Return whether a caption says the same, or nothing sensible, when two of its nouns change places."""
    if caption.tokens[one].lemma == caption.tokens[other].lemma:
        return True
    links = path(caption, one, other)
    if not links and caption.tokens[other].dep in ("conj", "appos"):
        return True
    if any(caption.tokens[i].lemma in SYMMETRIC_LINKS or caption.tokens[i].lemma in SYMMETRIC_VERBS for i in links):
        return True
    return any(caption.tokens[i].dep == "conj" and caption.tokens[i].pos in ("NOUN", "PROPN") for i in (one, other, *links))


def subject(caption: Parsed, verb: int) -> int:
    """Return the noun that does what a verb says; -1 where none is found."""
    for _ in range(len(caption.tokens)):
        found = children(caption, verb, "nsubj", "nsubjpass")
        if found:
            return found[0]
        token = caption.tokens[verb]
        if token.dep in ("acl", "relcl"):
            return token.head
        if token.dep not in ("conj", "advcl", "xcomp", "ccomp") or token.head == verb:
            break
        verb = token.head
    return -1


def swappable(caption: Parsed, one: int, other: int) -> bool:
    """Return whether two nouns can change places and leave articles and verbs right: same number, both with or without article."""
    if caption.tokens[one].tag != caption.tokens[other].tag:
        return False
    return (frame(caption, one) == "bare") == (frame(caption, other) == "bare")
