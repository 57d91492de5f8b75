"""NegCLIP's negatives: two words or phrases of a caption change places.

Yuksekgonul et al., "When and why vision-language models behave like bags-of-words, and what to do about it?", ICLR 2023. The
paper's list of what is swapped (noun phrases, nouns, adjectives, verbs, adverbs) and its limit of one negative per kind were not
checked against its code, which is not public; its training rows (one to five negatives a caption) agree with them. Those rows
also hold swaps that this generator refuses: within "a man and a woman" or "a sink next to a mirror", which stay true, within
compounds ("a bath tub"), and between one and many, which is no longer English.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from fgray.text_negatives.edits import swap
from fgray.text_negatives.generator import Generator, Negative, Parsed, Tools, chance
from fgray.text_negatives.swaps import FINDERS

Kind = Literal["noun_phrase", "noun", "adjective", "verb", "adverb"]
ORDER: tuple[Kind, ...] = ("noun_phrase", "noun", "adjective", "verb", "adverb")


class NegClip(Generator):
    """NegCLIP's swaps of two noun phrases, nouns, adjectives, verbs or adverbs.

    A caption gets at most one negative per kind, in this order; kinds that it has no pair for are left out, and so is a text
    that another kind has already given.
    """

    name: ClassVar[str] = "negclip"

    types: tuple[Kind, ...] = Field(ORDER, min_length=1, description="which of noun_phrase, noun, adjective, verb, adverb")

    def generate(self, parsed: Sequence[Parsed], tools: Tools) -> list[list[Negative]]:
        """See ``Generator.generate``."""
        return [self._swaps(caption, tools.seed) for caption in parsed]

    def _swaps(self, caption: Parsed, seed: int) -> list[Negative]:
        found: list[Negative] = []
        for kind in (kind for kind in ORDER if kind in self.types):
            pairs = FINDERS[kind](caption)
            chance(seed, caption.text, self.name, kind).shuffle(pairs)
            made = (swap(f"swap_{kind}", caption, one, other, _reason(caption, one, other)) for one, other in pairs)
            said = {caption.text.lower(), *(negative.text.lower() for negative in found)}
            found += [negative for negative in made if negative.text.lower() not in said][:1]
        return found


def _reason(caption: Parsed, one: tuple[int, int], other: tuple[int, int]) -> str:
    texts = [" ".join(token.text for token in caption.tokens[first:last]) for first, last in (one, other)]
    return " <-> ".join(texts)
