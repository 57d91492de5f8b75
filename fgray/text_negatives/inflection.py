"""Plurals of nouns."""

from __future__ import annotations

from fgray.text_negatives.wordnet import WordNet


def plural(word: str, wordnet: WordNet) -> str:
    """Return a singular noun's plural: an irregular one where WordNet has it ("men"), else by the rules of spelling."""
    irregular = wordnet.irregular_plural(word.lower())
    if irregular:
        return irregular
    if word.endswith("man") and word not in ("human", "german"):
        return word[:-2] + "en"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
