"""The gallery of cases: what belongs together stands together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from fgray.benchmarks.base import BenchmarkInfo, LoadedBenchmark
from fgray.data.cases import CASE_SCHEMA, CaseSet
from fgray.data.index import ImageIndex, open_images
from fgray.report.explore import explore_page, gather, write_explore
from tests.report.sample_run import WORDINGS, caption_rows, spec_style_samples
from tests.report.test_html import text

INFO = BenchmarkInfo("mine", "Mine", "What it measures.", "https://example.org", "CC BY 4.0", "@misc{mine}", ties="first")
Load = Callable[[str, str], bytes]


@pytest.fixture(scope="module")
def index(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    return open_images(str(data_root / "coco128" / "val2017"), cache=str(tmp_path_factory.mktemp("index")))


def load(index: ImageIndex) -> Load:
    return lambda benchmark, key: index.read(index.locate([key]))[0]


def loaded(cases: CaseSet, index: ImageIndex, **parts: object) -> LoadedBenchmark:
    return LoadedBenchmark(INFO, cases, index, [], **parts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def keys(index: ImageIndex) -> list[str]:
    return sorted(index.keys.to_pylist())


def test_k_pictures_stand_with_their_k_texts(index: ImageIndex, keys: list[str]) -> None:
    wanted = {name for name in CASE_SCHEMA.names if name != "pool"}
    rows = [{name: row[name] for name in wanted & row.keys()} for row in spec_style_samples(keys, 1)]
    page = BeautifulSoup(explore_page(loaded(CaseSet.from_rows(rows), index, title="SPEC-style, not SPEC"), load(index), 5), "html.parser")
    cards = page.select("[data-card]")
    assert {str(card["data-subset"]): len(card.select("figure")) for card in cards} == {
        subset: len(texts) for subset, texts in WORDINGS.items()
    }
    for card in cards:
        captions = [text(figure.figcaption) for figure in card.select("figure")]
        assert captions == WORDINGS[str(card["data-subset"])]  # each picture over its own text, no text as a wrong one
    assert text(page.h1) == "SPEC-style, not SPEC"
    assert "Not the official benchmark" in text(page.select_one(".notice"))
    assert "@misc{mine}" in text(page.select_one("#provenance"))


def test_hard_negative_texts_are_marked(data_root: Path, index: ImageIndex, keys: list[str]) -> None:
    items = list(json.loads((data_root / "annotations" / "sugarcrepe" / "swap_obj.json").read_text("utf-8")).values())[:6]
    shared = {"subset": "swap_obj", "task": "i2t", "query_kind": "image", "candidate_kind": "text", "labels": [0]}
    rows = [
        {**shared, "case_id": str(number), "cluster_id": key, "query": key, "candidates": [item["caption"], item["negative_caption"]]}
        for number, (key, item) in enumerate(zip(keys, items, strict=False))
    ]
    page = BeautifulSoup(explore_page(loaded(CaseSet.from_rows(rows), index, official=True), load(index), 4), "html.parser")
    assert page.select_one(".notice") is None
    assert len(page.select("[data-card]")) == 4  # the limit
    by_caption = {item["caption"]: item["negative_caption"] for item in items}
    for figure in page.select("[data-card] figure"):
        assert text(figure.select_one(".foil")) == "✗ " + by_caption[text(figure.select_one(".truth")).removeprefix("✓ ")]


def test_pictures_of_a_pool_stand_alone(data_root: Path, index: ImageIndex, keys: list[str]) -> None:
    captions = [row["captions"] for row in caption_rows(data_root)[:8]]
    shared = {"subset": "", "query_kind": "image", "candidate_kind": "text", "pool": "texts", "task": "text_retrieval"}
    rows = [
        {**shared, "case_id": f"i{n}", "cluster_id": f"{n}", "query": keys[n], "labels": list(range(5 * n, 5 * n + 5))} for n in range(8)
    ]
    shared |= {"query_kind": "text", "candidate_kind": "image", "pool": "images", "task": "image_retrieval"}
    rows += [{**shared, "case_id": f"t{n}", "cluster_id": f"{n}", "query": texts[0], "labels": [n]} for n, texts in enumerate(captions)]
    pools = {"texts": [text for texts in captions for text in texts], "images": keys[:8]}
    groups = gather(CaseSet.from_rows(rows, pools=pools))
    assert [[member.key for member in group.members] for group in groups] == [[key] for key in keys[:8]]
    assert [list(group.members[0].right) for group in groups] == captions
    assert all(not group.members[0].wrong for group in groups)


def test_written_to_a_path_with_its_pictures(index: ImageIndex, keys: list[str], tmp_path: Path) -> None:
    row = {"case_id": "a", "subset": "<i>s</i>", "task": "i2t", "cluster_id": "a", "query_kind": "image", "query": keys[0]}
    cases = CaseSet.from_rows([{**row, "candidate_kind": "text", "candidates": ["<script>x</script>", "b"], "labels": [0]}])
    out = write_explore(loaded(cases, index), load(index), str(tmp_path / "gallery.html"), limit=1)
    page = BeautifulSoup(Path(out).read_text("utf-8"), "html.parser")
    assert len(page.select("script")) == 1 and not page.select("i:not([class])")
    assert "<script>x</script>" in text(page.select_one(".truth"))
    assert str(page.img["src"]).startswith("data:image/webp;base64,")
