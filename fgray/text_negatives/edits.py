"""Edits of a caption's characters: several at once, with the article and the capital put right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fgray.text_negatives.generator import Negative, Parsed

# Written with a vowel but spoken with a consonant, and the other way round.
_CONSONANT_SOUND = re.compile(r"(uni(?!n|m|de)|ufo\b|us(?!h)|ut[ei]|eu|ewe|one\b|once|ubiq|ura|uku|u-)", re.IGNORECASE)
_VOWEL_SOUND = re.compile(r"([aeiou]|hour|honest|heir|honou?r|8|11\b|18\b|(suv|rv|mp3|nba|nfl|mri|x-?ray)\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Edit:
    """Put `text` in the place of the caption's characters from `start` to `end` (equal: insert)."""

    start: int
    end: int
    text: str


def article(word: str) -> str:
    """Return the indefinite article that goes before a word."""
    return "an" if _VOWEL_SOUND.match(word) and not _CONSONANT_SOUND.match(word) else "a"


def apply(kind: str, caption: Parsed, edits: Sequence[Edit], reason: str) -> Negative:
    """Return the caption with the edits made.

    An article "a" or "an" right before an edit follows the new word, and the caption keeps its capital; the span then covers
    the article too.

    Args:
        kind: the negative's type.
        caption: what is edited.
        edits: at least one; they do not overlap.
        reason: the negative's reason.
    """
    first = caption.tokens[_opener(caption)].start
    made = [replace(edit, text=_capital(edit.text)) if edit.start == first and caption.text[first].isupper() else edit for edit in edits]
    made = sorted([*made, *_articles(caption, made)], key=lambda edit: (edit.start, edit.end))
    parts, at = [], 0
    for edit in made:
        parts += [caption.text[at : edit.start], edit.text]
        at = edit.end
    text = "".join([*parts, caption.text[at:]])
    start, stop = made[0].start, made[-1].end
    end = stop + len(text) - len(caption.text)
    return Negative(kind, text, start, end, caption.text[start:stop], True, reason)


def swap(kind: str, caption: Parsed, one: tuple[int, int], other: tuple[int, int], reason: str) -> Negative:
    """Return the caption with two runs of tokens, each (first, one past the last), in each other's place."""
    left, right = sorted((one, other))
    spans = [(caption.tokens[first].start, caption.tokens[last - 1].end) for first, last in (left, right)]
    texts = [caption.text[start:end] for start, end in spans]
    opener = caption.tokens[left[0]]
    if left[0] == _opener(caption) and opener.text.istitle() and opener.pos != "PROPN" and opener.text != "I":
        texts[0] = texts[0][0].lower() + texts[0][1:]
    return apply(kind, caption, [Edit(*spans[0], texts[1]), Edit(*spans[1], texts[0])], reason)


def _opener(caption: Parsed) -> int:
    """Return the number of the caption's first word; quotation marks and blanks may stand before it."""
    return next((i for i, token in enumerate(caption.tokens) if token.text[:1].isalnum()), 0)


def like(word: str, original: str) -> str:
    """Return `word` in the letter case of `original`."""
    if len(original) > 1 and original.isupper():
        return word.upper()
    return _capital(word) if original[:1].isupper() else word


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _articles(caption: Parsed, edits: Iterable[Edit]) -> list[Edit]:
    """Return the edits of articles right before `edits`."""
    opened = {edit.start: edit for edit in edits if edit.text.strip()}
    covered = [(edit.start, edit.end) for edit in opened.values()]
    found = []
    for token, following in zip(caption.tokens, caption.tokens[1:], strict=False):
        if token.text.lower() not in ("a", "an") or token.pos != "DET" or following.start not in opened:
            continue
        if any(start <= token.start < end for start, end in covered):
            continue
        right = like(article(opened[following.start].text.lstrip()), token.text[:1])
        if right != token.text:
            found.append(Edit(token.start, token.end, right))
    return found
