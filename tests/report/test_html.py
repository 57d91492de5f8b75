"""The report says what the run folder says; checked with an HTML parser against the files themselves."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bs4 import BeautifulSoup, Tag
from PIL import Image

from fgray.errors import DataError, NotFound
from fgray.report.html import report_page, write_report
from fgray.runs import QUARANTINE_SCHEMA, SAMPLE_SCHEMA, RunFolder
from tests.report.sample_run import HOSTILE, sample, spec_style_samples


def text(node: Tag | None) -> str:
    """The text of an element with single blanks."""
    assert node is not None
    return " ".join(node.get_text(" ").split())


@pytest.fixture(scope="module")
def samples(run_folder: RunFolder) -> dict[tuple[str, str], dict[str, Any]]:
    """(benchmark, case id) -> row of samples.parquet."""
    return {(row["benchmark"], row["case_id"]): row for row in run_folder.read_table("samples.parquet").to_pylist()}


def cards(soup: BeautifulSoup) -> list[Tag]:
    return soup.select("[data-card]")


def row_of(card: Tag, samples: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    return samples[str(card["data-benchmark"]), text(card.select_one(".id"))]


def test_every_metric_stands_in_the_table(soup: BeautifulSoup, run_folder: RunFolder) -> None:
    entries = run_folder.read_json("metrics.json")["metrics"]
    rows = {
        str(row.th["title"]): [text(cell) for cell in row.select("td")]
        for row in soup.select("#table table.numbers tbody tr")
        if row.th.get("title")
    }
    assert rows.keys() == entries.keys()
    for name, entry in entries.items():
        low, high = entry["ci95"]
        assert rows[name][0] == f"{entry['value'] * 100:.1f}"
        assert rows[name][1] == f"{low * 100:.1f}–{high * 100:.1f}"
        chance = entry["chance"] * 100
        assert rows[name][2] == (f"{chance:.1f}" if chance >= 1 else f"{chance:.2g}")
        assert rows[name][3].split()[1] == ("above" if low > entry["chance"] else "below" if high < entry["chance"] else "not")
        correct = f"{entry['correct']:,} / " if entry["correct"] is not None else ""
        assert rows[name][4] == f"{correct}{entry['count']:,}"
        assert rows[name][5] == f"{entry['clusters']:,}"
        assert rows[name][6] == ("tie is wrong" if name.startswith("retrieval") else "first wins")
        assert rows[name][7:9] == [f"{entry['ties']} / {entry['near_ties']}", str(entry["excluded"])]


def test_bars_have_the_length_of_their_values(soup: BeautifulSoup, run_folder: RunFolder) -> None:
    entries = run_folder.read_json("metrics.json")["metrics"]
    bars = soup.select("#results .bar[role=img]")
    assert len(bars) == len(entries)
    widths = sorted(float(re.search(r"width:([\d.]+)%", str(bar.select_one(".fill")["style"]))[1]) for bar in bars)
    assert widths == pytest.approx(sorted(entry["value"] * 100 for entry in entries.values()), abs=0.006)
    marks = sorted(float(re.search(r"left:([\d.]+)%", str(bar.select_one(".chance")["style"]))[1]) for bar in bars)
    assert marks == pytest.approx(sorted(entry["chance"] * 100 for entry in entries.values()), abs=0.006)


def test_controls_stand_beside_their_bars(soup: BeautifulSoup, run_folder: RunFolder) -> None:
    controls = run_folder.read_json("metrics.json")["controls"]
    label = "Existence: image → text"
    (bar,) = [bar for bar in soup.select(".bar[role=img]") if str(bar["aria-label"]).startswith(label)]
    oracle, shuffled = (controls[f"spec_style/existence/{kind}_i2t_accuracy"]["value"] for kind in ("pixel_oracle", "shuffled"))
    assert [text(cell) for cell in bar.select(".control")] == [f"{oracle * 100:.1f}", f"{shuffled * 100:.1f}"]
    assert f"Shuffled {shuffled * 100:.1f}" in str(bar["aria-label"])


def test_unofficial_data_is_named_and_gets_no_published_number(soup: BeautifulSoup) -> None:
    assert "SPEC-style, not SPEC" in text(soup.select_one(".notice"))
    assert "SPEC-style, not SPEC not official data" in [text(node) for node in soup.select("#results h3")]
    tables = {text(table.caption): text(table.thead) for table in soup.select("#table table.numbers") if table.caption}
    assert "published" not in tables["SPEC-style, not SPEC"]
    assert "CLIP ViT-L/14 (published)" in tables["Flickr8k retrieval"]
    assert "61.1" in text(soup.select_one('#table th[title="retrieval/flickr8k/image_retrieval_recall@1"]').parent)
    assert "57.0" not in text(soup.select_one('#table th[title="spec_style/existence/i2t_accuracy"]').parent)


def test_one_unofficial_benchmark_gives_the_report_its_title(
    data_root: Path, load_image: Callable[[str, str], bytes], tmp_path: Path
) -> None:
    from tests.report.sample_run import write_sample_run

    folder = write_sample_run(data_root, tmp_path, cases=1, both=False)
    write_report(folder, load_image)
    alone = BeautifulSoup(folder.storage.read_bytes("report.html"), "html.parser")
    assert text(alone.h1) == "SPEC-style, not SPEC"
    assert text(alone.title).startswith("SPEC-style, not SPEC")
    verdict = text(alone.select_one(".verdict"))
    assert verdict.startswith("lite0-minilm scores 33.4 % on “SPEC-style, not SPEC” (95 % interval 30.6–36.2, chance 27.6 %);")
    assert verdict.endswith("farthest in existence: image → text (+24.0 points).")
    assert verdict.count(".") - len(re.findall(r"\d\.\d", verdict)) == 1  # one sentence


def test_cards_show_what_the_samples_hold(soup: BeautifulSoup, samples: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert len(cards(soup)) > 60
    for card in cards(soup):
        row = row_of(card, samples)
        before = row["tied_before"] if row["benchmark"] == "spec_style" else row["tied"]  # first wins; a tie is wrong
        assert card["data-outcome"] == ("success" if row["greater"] + before == 0 else "failure")
        shown = dict(zip(row["shown"], zip(row["candidates"], row["scores"], strict=True), strict=True))
        items = card.select("ol > li")
        if row["pool"] is None:
            assert len(items) == len(row["candidates"])
        for item in items:
            value = text(item.select_one(".score"))
            matching = [position for position, (_, score) in shown.items() if f"{score:.4f}".replace("-", "−") == value]
            mark = text(item.select_one(".mark")) if item.select_one(".mark") else ""
            assert ("✓ right" in mark) == any(position in row["labels"] for position in matching) or len(matching) > 1
            assert ("picked" in mark) == any(position == row["prediction"] for position in matching) or len(matching) > 1
        assert bool(card.select_one("ol img")) == (row["candidate_kind"] == "image")
        assert bool(card.select_one(".query img")) == (row["query_kind"] == "image")


def test_failures_begin_with_the_worst_margin(soup: BeautifulSoup, samples: dict[tuple[str, str], dict[str, Any]]) -> None:
    shown = [(card["data-benchmark"], text(card.select_one(".id"))) for card in cards(soup) if card["data-outcome"] == "failure"]
    for group in {(row["benchmark"], row["subset"], row["task"]) for row in samples.values()}:
        wrong = [
            key
            for key, row in samples.items()
            if (row["benchmark"], row["subset"], row["task"]) == group and row["margin"] is not None and row["margin"] < 0
        ]
        mine = [key for key in shown if key in wrong]
        assert len(mine) == min(len(wrong), 6)
        assert not wrong or mine[0] == min(wrong, key=lambda key: (samples[key]["margin"], key))


def test_an_excluded_case_has_no_card_and_a_near_tie_is_listed(soup: BeautifulSoup, samples: dict[tuple[str, str], dict[str, Any]]) -> None:
    (excluded,) = [key for key, row in samples.items() if row["excluded"]]
    assert excluded not in [(card["data-benchmark"], text(card.select_one(".id"))) for card in cards(soup)]
    near = {row["case_id"] for row in samples.values() if row["margin"] is not None and abs(row["margin"]) < 1e-5}
    assert {text(row.th) for row in soup.select("#ties tbody tr")} == near and len(near) == 2


def test_pictures_are_real_and_have_alternative_texts(soup: BeautifulSoup) -> None:
    images = soup.select("img")
    assert len(images) > 100
    for image in images:
        kind, data = str(image["src"]).split(",", 1)
        assert kind == "data:image/webp;base64"
        assert image["alt"].startswith(("Query image", "Candidate "))
        decoded = Image.open(io.BytesIO(base64.b64decode(data)))
        assert decoded.size == (int(image["width"]), int(image["height"]))


def test_quarantine_and_provenance_are_shown(soup: BeautifulSoup) -> None:
    assert [text(cell) for cell in soup.select("#quarantine tbody td")] == ["spec_style", "count.tar", "decode", "truncated file"]
    told = text(soup.select_one("#provenance"))
    for fact in (
        "EfficientNet-Lite0 + MiniLM, centred ConSE",
        "Not a pretrained CLIP.",
        "5f1d" * 16,
        "cd" * 32,
        "224 × 224 px",
        "CC BY 4.0",
        "@inproceedings{spec,",
        "2.14.0",
    ):
        assert fact in told


def test_hostile_strings_stay_text(soup: BeautifulSoup, page: str) -> None:
    assert len(soup.select("script")) == 1  # the page's own
    assert "owned" not in soup.script.string
    known = {"href", "src", "style", "class", "id"}
    for element in soup.find_all(True):
        assert not [name for name in element.attrs if name.startswith("on") and name not in known]
    assert not soup.select("b[onclick], #gallery b, img[src=x]")
    shown = [text(card.select_one(".query-text")) for card in cards(soup) if card.select_one(".query-text")]
    assert HOSTILE[0] in shown and HOSTILE[1] in shown  # as they stand, template braces too
    assert HOSTILE[2] in shown
    assert all(node["dir"] == "auto" for node in soup.select(".query-text, .texts .text"))
    assert max(map(len, shown)) <= 600  # long ones are cut
    assert "<img src=x" not in page


def test_nothing_comes_from_outside(soup: BeautifulSoup, page: str) -> None:
    assert not soup.select("link, iframe, object, embed, base")
    assert all(str(node["src"]).startswith("data:") for node in soup.select("[src]"))
    links = {str(node["href"]) for node in soup.select("[href]")}
    assert {link for link in links if not link.startswith("#")} == {"https://example.org/data"}  # not the javascript: address
    assert not re.search(r"url\(|@import", soup.style.string)
    policy = str(soup.select_one("meta[http-equiv=Content-Security-Policy]")["content"])
    digest = base64.b64encode(hashlib.sha256(soup.script.string.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_a_function_of_the_run(run_folder: RunFolder, load_image: Callable[[str, str], bytes], page: str) -> None:
    write_report(run_folder, load_image)
    assert run_folder.storage.read_bytes("report.html").decode() == page


def test_a_missing_picture_leaves_a_gap(data_root: Path, run_folder: RunFolder) -> None:
    def broken(benchmark: str, key: str) -> bytes:
        if key.endswith("9.jpg"):
            raise DataError("no such image", where=key)
        return b"not an image" if key.endswith("4.jpg") else (data_root / key).read_bytes()

    files = [run_folder.read_json("run.json"), run_folder.read_json("metrics.json"), run_folder.read_table("samples.parquet")]
    gaps = BeautifulSoup(report_page(*files, QUARANTINE_SCHEMA.empty_table(), broken), "html.parser").select(".no-picture")
    assert any("no such image" in gap["title"] for gap in gaps)
    assert any("no such image" not in gap["title"] for gap in gaps)


def test_a_large_run_stays_small(data_root: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))  # the worst for a codec
    sink = io.BytesIO()
    noise.save(sink, "PNG")
    keys = [f"noise-{number}" for number in range(400)]
    rows = []
    for copy in range(4):
        for row in spec_style_samples(keys, 12):
            rows.append({**row, "subset": f"{row['subset']}_{copy}"})
    table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
    made = report_page({"name": "large"}, {"metrics": {}}, table, QUARANTINE_SCHEMA.empty_table(), lambda benchmark, key: sink.getvalue())
    assert 3_000_000 < len(made.encode()) < 6_000_000
    shown = BeautifulSoup(made, "html.parser").select("[data-card]")
    assert {card["data-outcome"] for card in shown} == {"failure", "success"}


def test_optional_parts_may_be_missing() -> None:
    row = sample("mine", "", "classify", "a", [0.1, 0.2], 0, query_kind="text", query="q", candidate_kind="text", candidates=["x", "y"])
    table = pa.Table.from_pylist([row], schema=SAMPLE_SCHEMA)
    metrics = {"metrics": {"mine/acc1": {"value": None, "count": 0}}}
    made = BeautifulSoup(report_page({}, metrics, table, QUARANTINE_SCHEMA.empty_table(), lambda *_: b""), "html.parser")
    assert text(made.select_one(".verdict")) == "The model has no scored metric."
    assert text(made.select_one("#quarantine p")).startswith("Empty")


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"run\.json"):
        write_report(RunFolder(str(tmp_path)), lambda *_: b"")
