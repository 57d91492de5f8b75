"""Edited captions as HTML: the edit stands out, everything stays text."""

from __future__ import annotations

from markupsafe import Markup, escape

from fgray.errors import DataError

_LENGTH = 600  # characters of a text that a card can bear
_LEAD = 60  # characters kept ahead of an edit that lies beyond them


def highlight(text: str, start: int | None, end: int | None, length: int = _LENGTH) -> Markup:
    """Return a text as safe HTML with ``text[start:end]`` inside ``<mark>``; a removal (start = end) is marked by a caret.

    Args:
        text: as it stands; everything in it is escaped.
        start: first character of the edit; None where nothing was edited.
        end: one past its last; None where nothing was edited.
        length: a longer text is cut with an ellipsis, ahead of the edit too where it would not be seen otherwise.

    Raises:
        DataError: the edit does not lie inside the text.
    """
    if start is None or end is None:
        return escape(_cut(text, length))
    if not 0 <= start <= end <= len(text):
        raise DataError(f"the edit {start}:{end} lies outside the text '{_cut(text, 80)}'", fix="write the negatives again")
    before, edit, after = text[:start], text[start:end], text[end:]
    if end > length:
        before = "…" + before[-_LEAD:] if start > _LEAD else before
        edit = _cut(edit, length)
    after = _cut(after, max(_LEAD, length - len(before) - len(edit)))
    return Markup("{}<mark>{}</mark>{}").format(before, edit or "‸", after)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
