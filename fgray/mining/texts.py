"""Texts in forms that can be compared."""

from __future__ import annotations

import re
import unicodedata

_NOT_WORD = re.compile(r"[^\w]+|_+")


def normal_form(text: str) -> str:
    """Return a text without what captions of one meaning differ in: case, punctuation, white space, Unicode's compatible forms.

    A text of punctuation alone keeps it, so that ":)" and ":(" stay two texts.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Folding can leave a form that is not composed; apostrophes go without a gap, so that "dog's" and "dogs'" keep one word.
    folded = unicodedata.normalize("NFKC", folded).replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", "")
    return _NOT_WORD.sub(" ", folded).strip() or " ".join(folded.split())


def token_set(text: str) -> frozenset[str]:
    """Return the words of a text's normal form."""
    return frozenset(normal_form(text).split())
