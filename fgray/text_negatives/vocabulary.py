"""What the job's captions say: which words they use, in which surroundings, and which occur together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fgray.text_negatives.generator import Parsed
from fgray.text_negatives.grammar import attributes_of, frame, lower, modified, role

CONTENT = ("NOUN", "PROPN", "VERB", "ADJ", "ADV", "NUM")
Key = tuple[str, str]  # tag, frame


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Counts over captions; plain data.

    Attributes:
        words: (fine tag, frame) -> lemma -> (the word as written most often, how often it stands so). For frames see
            ``grammar.frame``: a word seen in one fits there grammatically.
        together: noun -> other noun -> captions that hold both.
        attributes: noun -> adjective -> how often it modifies the noun.
        roles: noun -> role (``grammar.role``) -> how often it plays it: what does what to it, where it is.
        fingerprint: hash of the counts.
    """

    words: dict[Key, dict[str, tuple[str, int]]]
    together: dict[str, dict[str, int]]
    attributes: dict[str, dict[str, int]]
    roles: dict[str, dict[str, int]]
    fingerprint: str


def build_vocabulary(captions: Sequence[Parsed], min_count: int = 2) -> Vocabulary:
    """Count the words of captions.

    Args:
        captions: in any order; a caption that stands twice counts twice.
        min_count: what occurs less often is left out (it is often a slip of the pen or of the parser).
    """
    forms: dict[Key, Counter[tuple[str, str]]] = {}
    together: dict[str, Counter[str]] = {}
    attributes: dict[str, Counter[str]] = {}
    roles: dict[str, Counter[str]] = {}
    for caption in captions:
        nouns = set()
        for number, token in enumerate(caption.tokens):
            if token.pos in ("NOUN", "VERB"):
                forms.setdefault((token.tag, frame(caption, number)), Counter())[token.lemma, lower(token)] += 1
            if token.pos == "NOUN" and token.dep != "compound":
                nouns.add(token.lemma)
                roles.setdefault(token.lemma, Counter())[role(caption, number)] += 1
        for adjective in attributes_of(caption):
            noun = caption.tokens[modified(caption, adjective)].lemma
            attributes.setdefault(noun, Counter())[lower(caption.tokens[adjective])] += 1
        for noun in nouns:
            together.setdefault(noun, Counter()).update(nouns - {noun})
    words = {key: _spelled(counts, min_count) for key, counts in sorted(forms.items())}
    words = {key: found for key, found in words.items() if found}
    company, modifiers, parts = (_frequent(counts, min_count) for counts in (together, attributes, roles))
    digest = hashlib.sha256(json.dumps([list(words.items()), company, modifiers, parts]).encode())
    return Vocabulary(words, company, modifiers, parts, digest.hexdigest())


def with_mentions(captions: Sequence[Parsed], images: Sequence[Sequence[str]]) -> list[Parsed]:
    """Return the captions, each knowing what all captions of its images mention.

    Args:
        captions: distinct texts.
        images: for each caption the keys of the images that it describes.
    """
    said: dict[str, set[str]] = {}
    for caption, keys in zip(captions, images, strict=True):
        content = {word for token in caption.tokens if token.pos in CONTENT for word in (token.lemma, lower(token))}
        for key in keys:
            said.setdefault(key, set()).update(content)
    return [
        replace(caption, mentioned=frozenset().union(*(said[key] for key in keys))) for caption, keys in zip(captions, images, strict=True)
    ]


def _spelled(counts: Counter[tuple[str, str]], min_count: int) -> dict[str, tuple[str, int]]:
    """Return lemma -> (most frequent spelling, occurrences of the lemma)."""
    totals: Counter[str] = Counter()
    for (lemma, _), count in counts.items():
        totals[lemma] += count
    best: dict[str, tuple[int, str]] = {}
    for (lemma, word), count in counts.items():
        best[lemma] = min(best.get(lemma, (0, "")), (-count, word))
    return {lemma: (best[lemma][1], total) for lemma, total in sorted(totals.items()) if total >= min_count}


def _frequent(counts: dict[str, Counter[str]], min_count: int) -> dict[str, dict[str, int]]:
    kept = {key: {name: count for name, count in sorted(found.items()) if count >= min_count} for key, found in sorted(counts.items())}
    return {key: found for key, found in kept.items() if found}
