"""The report in a real browser: pictures load, filters work, nothing overflows or complains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fgray.runs import RunFolder

pytestmark = pytest.mark.browser


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def opened(browser: Any, run_folder: RunFolder, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.complaints.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto(f"file://{run_folder.uri}/report.html")
    yield page
    assert page.complaints == []
    context.close()


def visible(page: Any) -> list[dict[str, str]]:
    """The data attributes of the cards that are on the page and not hidden."""
    return page.evaluate("[...document.querySelectorAll('[data-card]')].filter(c => c.offsetParent !== null).map(c => ({...c.dataset}))")


def total(page: Any) -> int:
    return int(page.locator("[data-count]").inner_text().split()[0])


def test_every_picture_loads(opened: Any) -> None:
    opened.wait_for_function("[...document.images].every(image => image.complete)")
    widths = opened.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 100
    assert min(widths) > 0


def test_filters_hide_and_show_cards(opened: Any) -> None:
    everything = total(opened)
    cards = opened.evaluate("[...document.querySelectorAll('[data-card]')].map(c => ({...c.dataset}))")
    assert everything == len(cards)
    for name, value in (("subset", "existence"), ("task", "t2i"), ("outcome", "success"), ("benchmark", "retrieval/flickr8k")):
        opened.locator(f"[data-filters] [name={name}]").select_option(value)
        expected = [card for card in cards if card[name] == value]
        assert total(opened) == len(expected) < everything
        shown = visible(opened)
        assert shown and all(card[name] == value for card in shown)
        opened.locator(f"[data-filters] [name={name}]").select_option("")
    opened.locator("[name=subset]").select_option("existence")
    opened.locator("[name=outcome]").select_option("failure")
    both = [card for card in cards if card["subset"] == "existence" and card["outcome"] == "failure"]
    assert total(opened) == len(both)


def test_search_finds_words_in_any_order_and_says_when_there_are_none(opened: Any) -> None:
    opened.locator("[name=search]").fill("IMAGE top-left")
    assert visible(opened) and all("top-left" in card["search"] and "image" in card["search"] for card in visible(opened))
    opened.locator("[name=search]").fill("nothing has these words")
    assert visible(opened) == []
    assert opened.get_by_text("No card fits these filters.").first.is_visible()
    opened.locator("[name=search]").fill("")
    assert visible(opened)


def test_more_cards_come_on_demand(opened: Any) -> None:
    before = len(visible(opened))
    opened.locator("[data-more]").first.click()
    assert len(visible(opened)) > before


def test_nothing_is_wider_than_the_window(opened: Any) -> None:
    opened.evaluate("document.querySelectorAll('details').forEach(item => { item.open = true })")
    while opened.locator("[data-more]:visible").count():
        opened.locator("[data-more]:visible").first.click()
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # Inside the scrolling boxes tables may be wider; every card and paragraph must fit.
    wide = opened.evaluate(
        "[...document.querySelectorAll('.card, .card *, p, h1, h2, h3, pre, dl')]"
        ".filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > window.innerWidth + 1).length"
    )
    assert wide == 0


def test_hostile_captions_do_not_run(opened: Any) -> None:
    assert opened.title() != "owned"
    assert opened.evaluate("document.querySelectorAll('script').length") == 1


def test_text_stands_out_from_its_ground(opened: Any) -> None:
    # WCAG 2.1 contrast of the palette: 4.5 for text.
    ratios = opened.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const hex = style.getPropertyValue('--' + name).trim().slice(1);
            const full = hex.length === 3 ? [...hex].map(c => c + c).join('') : hex;
            const linear = (c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
            const [r, g, b] = [0, 2, 4].map(i => linear(parseInt(full.slice(i, i + 2), 16) / 255));
            return .2126 * r + .7152 * g + .0722 * b;
          };
          const pairs = ['ink/paper', 'ink/surface', 'muted/paper', 'muted/surface', 'muted/sunk', 'right/right-bg', 'wrong/wrong-bg',
            'right/surface', 'wrong/surface', 'muted/right-bg', 'muted/wrong-bg', 'warn/warn-bg', 'link/paper', 'link/surface']
            .map(pair => pair.split('/'));
          return pairs.map(([a, b]) => [a + ' on ' + b, (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05)]);
        }"""
    )
    assert [pair for pair, ratio in ratios if ratio < 4.5] == []
