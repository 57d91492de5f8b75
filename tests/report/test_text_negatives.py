"""The report of a text_negatives run says what its files say; hostile captions stay text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bs4 import BeautifulSoup

from fgray.data.negatives import NAME, NEGATIVE_SCHEMA, to_parquet
from fgray.errors import NotFound
from fgray.report.text_negatives import write_text_negatives_report
from fgray.runs import QUARANTINE_SCHEMA, RunFolder

HOSTILE = '<script>alert(1)</script> <img src=x onerror=alert(1)> & a <b>bold</b> "caption"'


def entry(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "ci95": [low, high], "count": 40, "correct": 40 * value, "chance": 0.5}


def negative(kind: str, text: str, start: int | None, end: int | None, plausibility: float | None, valid: bool = True) -> dict[str, Any]:
    source, reason = 'swap {"rank": 2}', "dog <-> man" if valid else "no two nouns"
    return {
        "ref": text, "type": kind, "start": start, "end": end, "original": "a" if valid else None, "plausibility": plausibility,
        "valid": valid, "source": source, "reason": reason, "score": None, "margin": None, "rank": None,
    }  # fmt: skip


LINES = [
    (
        "A dog bites a man.",
        [negative("swap_noun", "A man bites a dog.", 2, 17, -0.25), negative("adjective", "###", None, None, None, False)],
    ),
    (HOSTILE, [negative("swap_noun", HOSTILE + " indeed", len(HOSTILE), len(HOSTILE) + 7, 0.5)]),
]
COUNTS = {
    "swap": {
        "swap_noun": {"made": 2, "valid": 2, "refined_away": 0, "invalid": {}},
        "adjective": {"made": 1, "valid": 0, "refined_away": 0, "invalid": {"no two nouns": 1}},
    }
}


def write(folder: Path, blind: bool) -> BeautifulSoup:
    run = RunFolder(str(folder))
    run.write_json(
        "run.json", {"name": "edited", "job": "text_negatives", "model": {"card": {"name": "en_core_web_sm"}}, "config": {"a": 1}}
    )
    metrics = {}
    if blind:
        metrics = {f"blind/{name}": entry(0.625, 0.5, 0.75) for name in ("accuracy", "swap/accuracy", "swap/swap_noun/accuracy")}
        metrics["blind/sum_accuracy"] = entry(0.75, 0.6, 0.9)
    said = "measured with a model" if blind else "not measured: none is configured"
    content = {"metrics": metrics, "text_negatives": COUNTS, "captions": 2, "blind": said, "fingerprints": {"data": "d1"}}
    run.write_json("metrics.json", content)
    run.write_table("quarantine.parquet", QUARANTINE_SCHEMA.empty_table())
    common = {"direction": "text_edit", "anchor_kind": "text", "negative_kind": "text"}
    rows = [{**common, "anchor": anchor, "negatives": negatives} for anchor, negatives in LINES]
    run.storage.write_bytes(NAME, to_parquet(pa.Table.from_pylist(rows, schema=NEGATIVE_SCHEMA), {}))
    assert write_text_negatives_report(run) == f"{run.uri}/report.html"
    return BeautifulSoup(run.storage.read_bytes("report.html"), "html.parser")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    return write(tmp_path_factory.mktemp("run"), blind=True)


def text_of(node: Any) -> str:
    return " ".join(node.get_text(" ").split())


def test_the_table_says_what_metrics_say(page: BeautifulSoup) -> None:
    rows = [text_of(row) for row in page.select("#types tbody tr")]
    assert rows == ["swap Adjective 1 0 – no two nouns 1", "swap Swap noun 2 2 62.5 (50.0–75.0)"]  # in the order of the file
    assert "62.5 %" in text_of(page.select_one(".verdict"))
    assert "by the sum 75.0" in text_of(page.select_one(".tiles"))


def test_edits_are_marked_and_placeholders_are_not_shown(page: BeautifulSoup) -> None:
    cards = page.select("article[data-card]")
    assert len(cards) == 2
    assert {mark.get_text() for mark in page.select("article mark")} == {"man bites a dog", " indeed"}
    shown = {text_of(card.select_one(".query-text")).removeprefix("✓ ") for card in cards}
    assert shown == {"A dog bites a man.", " ".join(HOSTILE.split())}
    assert {card["data-kind"] for card in cards} == {"swap_noun"}


def test_hostile_texts_stay_text_and_nothing_comes_from_outside(page: BeautifulSoup) -> None:
    assert len(page.select("script")) == 1
    assert not page.select("img, iframe, link, object")
    assert {a["href"][0] for a in page.select("a[href]")} == {"#"}


def test_what_was_not_measured_is_not_invented(tmp_path: Path) -> None:
    page = write(tmp_path / "run", blind=False)
    assert "not measured: none is configured" in text_of(page.select_one(".verdict"))
    assert [text_of(row) for row in page.select("#types tbody tr")][1] == "swap Swap noun 2 2 –"


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        write_text_negatives_report(RunFolder(str(tmp_path)))
