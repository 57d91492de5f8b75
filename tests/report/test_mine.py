"""The report of a mining run says what its files say; checked with an HTML parser and in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag

from fgray.errors import DataError, NotFound
from fgray.report.mine import write_mine_report
from fgray.runs import RunFolder
from tests.report.sample_mine import CHAIN, TRANSFORMS, write_sample_mine
from tests.report.sample_run import HOSTILE


def text(node: Tag | None) -> str:
    assert node is not None
    return " ".join(node.get_text(" ").split())


def score(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


@pytest.fixture(scope="module")
def read(data_root: Path) -> Callable[[str], bytes]:
    """Image keys of the sample run are paths below Flickr8k's folder."""
    return lambda key: (data_root / "flickr8k" / key).read_bytes()


@pytest.fixture(scope="module")
def folder(data_root: Path, read: Callable[[str], bytes], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    made = write_sample_mine(data_root, tmp_path_factory.mktemp("mine") / "run")
    write_mine_report(made, read)
    return made


@pytest.fixture(scope="module")
def page(folder: RunFolder) -> BeautifulSoup:
    return BeautifulSoup(folder.storage.read_bytes("report.html"), "html.parser")


@pytest.fixture(scope="module")
def metrics(folder: RunFolder) -> dict[str, Any]:
    return folder.read_json("metrics.json")


@pytest.fixture(scope="module")
def rows(folder: RunFolder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = folder.read_table("negatives.parquet").to_pylist()
    return found


def shown(direction: str) -> str:
    return direction.replace("_to_", " → ").capitalize()


def test_every_direction_stands_in_the_table(page: BeautifulSoup, metrics: dict[str, Any]) -> None:
    table = {text(row.th): [text(cell) for cell in row.select("td")] for row in page.select("#directions tbody tr")}
    assert list(table) == ["Image → text", "Text → image", "Image → image"]
    for direction, counts in metrics["mining"].items():
        numbers = [f"{counts[name]:,}" for name in ("anchors", "rows", "candidates", "kept")]
        shares = [f"{100 * counts['kept'] / counts['candidates']:.1f}", f"{counts['kept'] / counts['rows']:.2f}"]
        assert table[shown(direction)] == [*numbers, *shares, str(counts["short_rows"])]


def test_bars_are_shares_of_the_candidates_in_the_order_of_the_chain(page: BeautifulSoup, metrics: dict[str, Any]) -> None:
    groups = {text(group.h4): group for group in page.select("#drops .group")}
    for direction, counts in metrics["mining"].items():
        bars = groups[shown(direction)].select(".bar")
        names = [text(bar.select_one(".bar-label")).lower().replace(" ", "_") for bar in bars]
        assert names == ["kept", *CHAIN]
        for name, bar in zip(names, bars, strict=True):
            count = counts["kept"] if name == "kept" else counts["dropped"][name]
            width = float(re.search(r"width:([\d.]+)%", str(bar.select_one(".fill")["style"]))[1])
            assert width == pytest.approx(100 * count / counts["candidates"], abs=0.006)
            assert text(bar.select_one(".bar-count")) == f"{count:,}"


def test_histograms_hold_every_candidate(page: BeautifulSoup, metrics: dict[str, Any]) -> None:
    labels = [str(svg["aria-label"]) for svg in page.select("#scores svg")]
    expected = []
    for direction in ("image_to_text", "text_to_image", "image_to_image"):
        for kind in ("score", "margin"):
            found = metrics["mining"][direction][f"{kind}_histogram"]
            if found:  # image_to_image has no margins
                name = direction.capitalize().replace("_", " ")
                expected.append(f"{kind}s, {name}: {sum(found['kept']):,} kept, {sum(found['dropped']):,} dropped")
    assert labels == expected and len(labels) == 5


def test_the_audit_shows_recall_beside_price(page: BeautifulSoup, metrics: dict[str, Any]) -> None:
    tables = {str(region["aria-label"]): region for region in page.select("#audit .scroll") if "Audit" in str(region["aria-label"])}
    table = tables["Audit, Text → image"]
    heads = [str(head.find(string=True)).lower() for head in table.select("thead th")]
    assert heads == ["filter", *TRANSFORMS, "price", "price of the best"]
    lines = {text(row.th): [text(cell) for cell in row.select("td")] for row in table.select("tbody tr")}
    assert list(lines) == ["Same image", "Near duplicate images", "All filters together"]
    for name, line in zip(("same_image", "near_duplicate_images", "chain"), lines.values(), strict=True):
        found = metrics["audit"]["text_to_image"]["filters"][name]
        for transform, cell in zip(TRANSFORMS, line, strict=False):
            item = found[transform]
            assert cell == f"{100 * item['recall']:.1f} {item['caught']} of {item['retrieved']}"
        for cell, kind in zip(line[-2:], ("true_negatives", "hardest_true_negatives"), strict=True):
            lost = found[kind]
            assert cell == f"{100 * lost['share']:.1f} {lost['lost']:,} of {lost['seen']:,}"
    other = tables["Audit, Image → text"].select("tbody tr")
    assert text(other[0].select("td")[-1]) == "–"  # no true negative was seen
    assert "below" in str(other[1].select("td")[-1].span["class"])  # a price above five percent stands out
    notes = text(page.select_one("#audit .notes"))
    assert "same image 100.0 % of 190" in notes and "same label none due" in notes


def test_the_verdict_is_that_of_all_directions(page: BeautifulSoup) -> None:
    caught, lost = 38 + 38 + 31 + 38 + 36 + 2 + 38, 41 + 120
    expected = f"{100 * caught / (7 * 38):.1f} % of the injected false negatives that were retrieved, and drop {100 * lost / 3500:.1f} %"
    verdict = text(page.select_one(".verdict"))
    assert verdict.startswith("131,000 negatives for 27,500 pairs in 3 directions. The filters catch " + expected)
    assert verdict.endswith(f"of the true negatives, {100 * 62 / 800:.1f} % of the hardest ones.")


def test_curves_stand_in_numbers_too(page: BeautifulSoup, metrics: dict[str, Any]) -> None:
    figures = page.select("#audit figure")
    curves = metrics["audit"]["text_to_image"]["curves"]
    assert len(figures) == len(curves) == 2
    for figure, item in zip(figures, curves, strict=True):
        lines = [[text(cell) for cell in row.select("th, td")] for row in figure.select("tbody tr")]
        assert len(lines) == len(item["points"])
        for line, point in zip(lines, item["points"], strict=True):
            recall = [point["recall"][family] for family in ("exact", "transformed")]
            assert line == [
                f"{point['threshold']:.3g}",
                *("–" if value is None else percent(value) for value in recall),
                percent(point["lost"]),
                "–" if point["hardest"] is None else percent(point["hardest"]),
            ]
        assert bool(figure.select("line.current")) == (item["current"] is not None)
    assert "here 12" in text(figures[0].figcaption) and "off in this run" in text(figures[1].figcaption)


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if value == 0 or abs(value) >= 0.01 else f"{100 * value:.2g}"


def test_the_riskiest_survivors_come_first_and_in_order(page: BeautifulSoup, metrics: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    cards = page.select("[data-card][data-group=riskiest]")
    assert len(cards) == len(metrics["riskiest"]) == 50
    reasons = {(row["direction"], row["anchor"], item["ref"]): item["reason"] for row in rows for item in row["negatives"]}
    halves = [metrics["riskiest"][:25], metrics["riskiest"][25:]]
    for card, risk in zip(cards, [risk for turn in zip(*halves, strict=True) for risk in turn], strict=True):  # directions in turns
        assert card["data-direction"] == risk["direction"]
        facts = [text(fact) for fact in card.select("li:not(.is-right) .fact")]
        assert facts == [score(risk["score"]), f"margin {score(risk['margin'])}", f"rank {risk['rank']}"]
        assert reasons[risk["direction"], risk["anchor"], risk["negative"]][1:] in text(card.select_one(".card-foot"))
        assert "positive" in text(card.select_one("li.is-right"))


def test_sample_cards_show_anchor_positive_and_hardest_negatives(page: BeautifulSoup, rows: list[dict[str, Any]]) -> None:
    cards = page.select("[data-card][data-group=sample]")
    assert {card["data-direction"] for card in cards} == {row["direction"] for row in rows}
    texts = {row["anchor"]: row for row in rows if row["direction"] == "image_to_text"}
    checked = 0
    for card in cards:
        if card["data-direction"] != "image_to_text":
            continue
        row = texts[text(card.select_one(".id"))]
        items = [item.get_text() for item in card.select(".texts .text")]
        expected = [row["positive"], *(item["ref"] for item in row["negatives"][:4])]
        assert [item.split("…")[0] for item in items] == [ref[: len(item.split("…")[0])] for item, ref in zip(items, expected, strict=True)]
        assert [item.get_text() for item in card.select(".why li")] == [item["reason"] for item in row["negatives"][:4]]
        assert card.select_one(".query img")["src"].startswith("data:image/webp")
        checked += 1
    assert checked == 24


def test_a_generated_caption_shows_its_edit(page: BeautifulSoup) -> None:
    cards = page.select("[data-card][data-direction=text_edit]")
    assert cards and all(text(mark) == "purple" for card in cards for mark in card.select("mark"))
    assert all(len(card.select("mark")) == 1 and not card.select(".fact") for card in cards)  # no score that nobody computed


def test_hostile_texts_stay_text_and_nothing_comes_from_outside(page: BeautifulSoup) -> None:
    assert len(page.select("script")) == 1 and "owned" not in page.script.string
    assert not page.select("#negatives b, #quarantine b, link, iframe, object, embed, base")
    assert all(str(node["src"]).startswith("data:") for node in page.select("[src]"))
    shown_texts = {node.get_text() for node in page.select("#negatives .text, #negatives .query-text")}
    assert HOSTILE[0] in shown_texts and HOSTILE[1] in shown_texts and HOSTILE[2] in shown_texts
    assert text(page.select_one("#quarantine tbody th")) == "<b>x</b>"


def test_the_page_is_a_function_of_the_run(folder: RunFolder, read: Callable[[str], bytes]) -> None:
    before = folder.storage.read_bytes("report.html")
    write_mine_report(folder, read)
    assert folder.storage.read_bytes("report.html") == before
    assert len(before) < 6_000_000


def test_a_run_without_audit_quarantine_and_pictures(data_root: Path, tmp_path: Path) -> None:
    def gone(key: str) -> bytes:
        raise DataError("its file is not known", where=key)

    made = write_sample_mine(data_root, tmp_path / "run")
    made.storage.delete("quarantine.parquet")
    content = {**made.read_json("metrics.json"), "audit": {}, "riskiest": [], "approximate": {"image_to_text": {"recall": 0.97, "k": 50}}}
    made.write_json("metrics.json", content)
    write_mine_report(made, gone)
    page = BeautifulSoup(made.storage.read_bytes("report.html"), "html.parser")
    assert not page.select("#audit") and not page.select("[data-group=riskiest]")
    assert "catch" not in text(page.select_one(".verdict"))
    assert "found 97.0 % of the best 50 (Image → text)." in text(page.select_one(".notice"))
    assert page.select(".no-picture") and not page.select("img")
    assert text(page.select_one("#quarantine p")).startswith("Empty")


def test_a_folder_that_holds_no_mining_run_is_one_clear_line(data_root: Path, tmp_path: Path) -> None:
    made = write_sample_mine(data_root, tmp_path / "run")
    made.storage.write_bytes("negatives.parquet", b"damaged")
    with pytest.raises(DataError, match="damaged negatives file"):
        write_mine_report(made, lambda key: b"")
    made.storage.delete("negatives.parquet")
    with pytest.raises(NotFound, match=r"negatives\.parquet"):
        write_mine_report(made, lambda key: b"")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def test_in_a_browser_filters_work_and_nothing_overflows(browser: Any, folder: RunFolder, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(f"file://{folder.uri}/report.html")
    opened.wait_for_function("[...document.images].every(image => image.complete)")
    assert min(opened.evaluate("[...document.images].map(image => image.naturalWidth)")) > 0
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.select_option("select[name=direction]", "text_edit")
    opened.select_option("select[name=group]", "sample")
    found = "[...document.querySelectorAll('[data-card]')].filter(c => c.offsetParent !== null).map(c => ({...c.dataset}))"
    cards = opened.evaluate(found)
    assert cards and {(card["direction"], card["group"]) for card in cards} == {("text_edit", "sample")}
    opened.fill("input[name=search]", "purple")
    assert all("purple" in json.dumps(card) for card in opened.evaluate(found))
    assert complaints == []
    context.close()
