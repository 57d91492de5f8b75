"""CE-CLIP's four hard negatives of a caption: relation swap, and a masked adjective, noun and verb filled anew.

Zhang, Awal and Agrawal, "Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives", CVPR 2024; ``data/dataset.py`` of
its repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from fgray.errors import ConfigError
from fgray.text_negatives.edits import Edit, apply, like, swap
from fgray.text_negatives.fillings import fits
from fgray.text_negatives.generator import MASK, PLACEHOLDER, Generator, Negative, Parsed, Token, Tools, chance, placeholder
from fgray.text_negatives.grammar import interchangeable, lower, nouns, swappable, unit
from fgray.text_negatives.words import contrasts

Type = Literal["relation", "adjective", "noun", "verb"]
POS_OF: dict[Type, str] = {"adjective": "ADJ", "noun": "NOUN", "verb": "VERB"}
ORDER: tuple[Type, ...] = ("relation", "adjective", "noun", "verb")
UPSTREAM_TOP_K = 5
UPSTREAM_MARK = "temp1"  # stands for the first noun while the second takes its place; a noun "t" spoils it, as it did there
SPARE = 16  # fillings asked for beyond the rank, since some are refused


class _Gap(NamedTuple):
    """A text with a word missing, and where its filling goes."""

    caption: int
    kind: Type
    text: str
    token: Token | None  # None: upstream's bare mask


class CeClip(Generator):
    """CE-CLIP's relation swap and masked adjective, noun and verb.

    A caption gets one negative per type, always in the order relation, adjective, noun, verb; where it has nothing to edit, an
    invalid placeholder. By default two nouns change places as whole words where that changes what is said, and a filling must be
    another word than the original and than the caption's others, not related to it in meaning (WordNet), of the same part of
    speech and form, not mentioned of the same image, and it must contradict the original (``fillings.fits``). With
    ``Tools.upstream`` the original code's ways are kept: it asks for three nouns and replaces every occurrence of the letters of
    the first two; the first occurrence of the masked word's letters is masked; the filling is not looked at; a caption without
    such a word becomes a bare mask whose filling is a text of one word, flagged valid. Two things are not kept: the random choice
    of a word, which was unseeded, and the blanks of a filled text, which the model's tokenizer set anew.
    """

    name: ClassVar[str] = "ce_clip"

    types: tuple[Type, ...] = Field(
        ORDER, min_length=1, description="which of relation, adjective, noun, verb; all but relation need a filler"
    )
    rank: int = Field(
        4, ge=1, description="which of the fitting fillings is taken, 1 being the most probable; CE-CLIP takes the 4th of five"
    )

    @property
    def needs_filler(self) -> bool:
        """Whether one of the types is filled in by a language model."""
        return any(kind != "relation" for kind in self.types)

    def generate(self, parsed: Sequence[Parsed], tools: Tools) -> list[list[Negative]]:
        """See ``Generator.generate``."""
        made: dict[tuple[int, Type], Negative] = {}
        gaps: list[_Gap] = []
        for number, caption in enumerate(parsed):
            for kind in self.types:
                if kind == "relation":
                    made[number, kind] = _upstream_relation(caption) if tools.upstream else _relation(caption)
                    continue
                token = _choose(caption, kind, tools)
                if token is None and not tools.upstream:
                    made[number, kind] = placeholder(kind, f"no {kind} to replace")
                else:
                    gaps.append(_Gap(number, kind, _masked(caption, token, tools.upstream), token))
        if self.needs_filler and tools.filler is None:
            fix = "name a language_model, or ask for types: [relation]"
            raise ConfigError("a language model is needed to fill in adjectives, nouns and verbs", where="generator ce_clip", fix=fix)
        if gaps and tools.filler is not None:
            originals = [gap.token.text if gap.token else "" for gap in gaps]
            fillings = tools.filler.fill([gap.text for gap in gaps], originals, UPSTREAM_TOP_K if tools.upstream else self.rank + SPARE)
            for gap, found in zip(gaps, fillings, strict=True):
                words = [word.strip() for word, _ in found]
                caption = parsed[gap.caption]
                take = self._upstream_fill if tools.upstream else self._fill
                made[gap.caption, gap.kind] = take(caption, gap, words, tools)
        return [[made[number, kind] for kind in ORDER if kind in self.types] for number in range(len(parsed))]

    def _fill(self, caption: Parsed, gap: _Gap, words: list[str], tools: Tools) -> Negative:
        token = gap.token
        assert token is not None
        fitting = [word for word in words if fits(caption, token, word, tools.wordnet)]
        if not fitting:
            return placeholder(gap.kind, f"no filling contradicts '{token.text}'")
        word = fitting[min(self.rank, len(fitting)) - 1]
        made = like(word, token.text)
        return apply(gap.kind, caption, [Edit(token.start, token.end, made)], f"{token.text} -> {made} by the language model")

    def _upstream_fill(self, caption: Parsed, gap: _Gap, words: list[str], tools: Tools) -> Negative:
        if not words:
            return placeholder(gap.kind, "the language model has no filling")
        word = words[min(self.rank, len(words)) - 1]
        if gap.token is None:
            return Negative(gap.kind, word, 0, len(word), caption.text, True, f"no {gap.kind}: upstream's bare mask, filled")
        start = caption.text.index(gap.token.text)
        text = caption.text[:start] + word + caption.text[start + len(gap.token.text) :]
        return Negative(gap.kind, text, start, start + len(word), gap.token.text, True, f"{gap.token.text} -> {word} as upstream")


def _relation(caption: Parsed) -> Negative:
    """Swap the first two nouns that can change places."""
    for one, other in combinations(nouns(caption), 2):
        if swappable(caption, one, other) and not interchangeable(caption, one, other):
            reason = f"{caption.tokens[one].text} <-> {caption.tokens[other].text}"
            return swap("relation", caption, unit(caption, one), unit(caption, other), reason)
    return placeholder("relation", "no two nouns can change places")


def _upstream_relation(caption: Parsed) -> Negative:
    found = [token.text for token in caption.tokens if token.pos == "NOUN"]
    if len(found) < 3:
        return Negative("relation", PLACEHOLDER, None, None, None, False, "fewer than three nouns")
    one, other = found[:2]
    text = caption.text.replace(one, UPSTREAM_MARK).replace(other, one).replace(UPSTREAM_MARK, other)
    reason = f"{one} <-> {other} wherever their letters stand, as upstream"
    if text == caption.text:
        return Negative("relation", text, None, None, None, True, reason)
    start = next(at for at, (a, b) in enumerate(zip(text + "\0", caption.text + "\1", strict=False)) if a != b)
    tail = 0
    while tail < min(len(text), len(caption.text)) - start and text[-1 - tail] == caption.text[-1 - tail]:
        tail += 1
    return Negative("relation", text, start, len(text) - tail, caption.text[start : len(caption.text) - tail], True, reason)


def _choose(caption: Parsed, kind: Type, tools: Tools) -> Token | None:
    """Return the word to mask, drawn evenly; None where there is none."""
    found = [token for token in caption.tokens if token.pos == POS_OF[kind]]
    if not tools.upstream:
        heads = {caption.tokens[i] for i in nouns(caption)}
        found = [token for token in found if token.text.isalpha() and (token in heads if kind == "noun" else lower(token) not in SLIGHT)]
        if kind == "adjective":
            found = [token for token in found if contrasts(lower(token))] or found
    return chance(tools.seed, caption.text, CeClip.name, kind).choice(found) if found else None


SLIGHT = frozenset(("be", "is", "are", "have", "has", "had", "do", "does", "other", "same", "such", "own", "many", "several", "few"))
"""Verbs and adjectives that say too little for another one to contradict them."""


def _masked(caption: Parsed, token: Token | None, upstream: bool) -> str:
    if token is None:
        return MASK
    if upstream:
        return caption.text.replace(token.text, MASK, 1)
    return caption.text[: token.start] + MASK + caption.text[token.end :]
