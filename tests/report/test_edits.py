"""Edits stand out, and nothing in a text becomes HTML."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.errors import DataError
from fgray.report.edits import highlight

SPANS = st.text(alphabet=st.characters(exclude_characters="\r\x00", exclude_categories=("Cs",)), max_size=120).flatmap(
    lambda text: st.tuples(st.just(text), *2 * [st.integers(0, len(text))])
)


@settings(deadline=None)
@given(SPANS)
def test_the_mark_holds_the_edit_and_the_rest_stays_as_it_is(drawn: tuple[str, int, int]) -> None:
    text, *ends = drawn
    start, end = sorted(ends)
    soup = BeautifulSoup(f"<pre>{highlight(text, start, end)}</pre>", "html.parser")  # a parser shortens blanks elsewhere
    assert [element.name for element in soup.pre.find_all(True)] == ["mark"]  # nothing of the text became an element
    (mark,) = soup.select("mark")
    before, after = mark.previous_sibling or "", mark.next_sibling or ""
    assert (str(before), str(after)) == (text[:start], text[end:])
    assert mark.get_text() == (text[start:end] if start < end else "‸")


def test_a_text_without_an_edit_is_escaped_only() -> None:
    assert highlight("<b>a & b</b>", None, None) == "&lt;b&gt;a &amp; b&lt;/b&gt;"


def test_an_edit_far_behind_is_still_seen() -> None:
    text = "long " * 400 + "red car" + " tail" * 400
    shown = BeautifulSoup(highlight(text, 2000, 2003), "html.parser")
    assert shown.mark.get_text() == "red"
    assert shown.get_text().startswith("…") and shown.get_text().endswith("…")
    assert len(shown.get_text()) <= 601


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 6)])
def test_an_edit_outside_the_text_is_an_error(start: int, end: int) -> None:
    with pytest.raises(DataError, match="outside the text 'short'"):
        highlight("short", start, end)
