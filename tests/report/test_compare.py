"""The comparison page says what the comparison of two real run folders found."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from rich.console import Console

from fgray.config.schema import StatsConfig
from fgray.evaluation.compare import Comparison, compare_runs
from fgray.report.compare import compare_page, write_compare
from fgray.report.console import comparison_table
from tests.report.sample_run import write_sample_run
from tests.report.test_html import text


@pytest.fixture(scope="module")
def comparison(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("compare")
    write_sample_run(data_root, folder / "a", cases=6)
    write_sample_run(data_root, folder / "b", cases=6, seed=1, skill=0.04)
    return compare_runs(str(folder / "a"), str(folder / "b"), StatsConfig(resamples=200))


@pytest.fixture(scope="module")
def page(comparison: Comparison, load_image: Callable[[str, str], bytes], tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    out = tmp_path_factory.mktemp("page") / "compare.html"
    assert write_compare(comparison, load_image, str(out)) == str(out)
    return BeautifulSoup(out.read_text("utf-8"), "html.parser")


def signed(value: float) -> str:
    """Percentage points as the page writes them."""
    shown = f"{abs(value) * 100:.1f}"
    return "0.0" if shown == "0.0" else ("+" if value > 0 else "−") + shown


def test_every_metric_stands_in_the_table(page: BeautifulSoup, comparison: Comparison) -> None:
    rows = {str(row.th["title"]): row for row in page.select("#table tbody tr")}
    assert list(rows) == [item.name for item in comparison.metrics]
    captions = [text(table.caption) for table in page.select("#table table")]
    assert captions == ["Retrieval · flickr8k", "Spec style"]
    assert text(rows["retrieval/flickr8k/image_retrieval_recall@1"].th) == "Text → image, R@1"
    for item in comparison.metrics:
        cells = [text(cell) for cell in rows[item.name].select("td")]
        assert cells[:3] == [f"{item.value_a * 100:.1f}", f"{item.value_b * 100:.1f}", signed(item.difference)]
        assert cells[3] == f"{signed(item.interval[0])} to {signed(item.interval[1])}"
        assert cells[4] == ("< 0.001" if item.p_value < 0.001 else f"{item.p_value:.3f}")
        assert ("uncorrected" in cells[5]) == (not item.primary)
        assert ("✱" in cells[5]) == (item.primary and item.p_holm is not None and item.p_holm < 0.05)
        assert cells[6] == f"±{item.detectable * 100:.1f}"
        assert cells[7] == f"{item.gained:,.0f} / {abs(item.lost):,.0f}"
        assert cells[8] == f"{item.count:,} / {item.clusters:,}"


def test_dots_and_whiskers_stand_where_the_numbers_are(page: BeautifulSoup, comparison: Comparison) -> None:
    ends = [text(label) for label in page.select(".forests")[0].select(".scale b")]
    scale = float(ends[2]) / 100
    assert ends[0] == "−" + ends[2][1:] and scale >= max(abs(end) for item in comparison.metrics for end in item.interval)
    bars = page.select(".forest[role=img]")
    for bar, item in zip(bars, comparison.metrics, strict=True):
        left = float(str(bar.select_one(".dot")["style"]).removeprefix("left:").removesuffix("%"))
        assert left == pytest.approx(50 + 50 * item.difference / scale, abs=0.006)
        assert ("ring" in bar.select_one(".dot")["class"]) == (not item.primary)


def test_changed_cases_show_what_is_right_and_who_picked_what(page: BeautifulSoup, comparison: Comparison) -> None:
    flips: dict[tuple[str, str], dict[str, Any]] = {(flip["benchmark"], flip["case_id"]): flip for flip in comparison.flips}
    shown = page.select("[data-card]")
    assert len(shown) > 20
    for card in shown:
        flip = flips[str(card["data-benchmark"]), text(card.select_one(".id"))]
        assert card["data-outcome"] == flip["direction"]
        winner, loser = ("B", "A") if flip["direction"] == "gained" else ("A", "B")
        marks = {text(item.select_one(".mark")): text(item) for item in card.select("ol > li")}
        right = next(content for content in marks.values() if "✓ right" in content)
        assert f"{winner} picked" in right and f"{loser} picked" not in right
        wrong = next(content for content in marks.values() if "✓ right" not in content)
        assert f"{loser} picked" in wrong
        if flip["candidate_kind"] == "text":
            assert flip["right"][0] in right
    counts = [sum(flip["direction"] == which for flip in comparison.flips) for which in ("gained", "lost")]
    assert [int(text(tile)) for tile in page.select(".tile-value")] == counts


def test_the_verdict_names_the_primary_metric(page: BeautifulSoup, comparison: Comparison) -> None:
    (primary,) = [item for item in comparison.metrics if item.primary]
    verdict = text(page.select_one(".verdict"))
    assert verdict.startswith(f"quickstart1 against quickstart: {signed(primary.difference)} points on macro average, mean of both")
    assert verdict.endswith("a clear gain." if primary.p_holm < 0.05 else "no clear difference.")


def test_two_runs_of_one_name_are_called_by_letter(comparison: Comparison, load_image: Callable[[str, str], bytes]) -> None:
    content = comparison.to_dict()
    same = {**content, "runs": {side: {**run, "name": "mine", "model": "mine"} for side, run in content["runs"].items()}, "flips": []}
    assert text(BeautifulSoup(compare_page(same, load_image), "html.parser").h1) == "run B against run A"


def test_terminal_table_marks_corrected_and_uncorrected(comparison: Comparison) -> None:
    sink = io.StringIO()
    Console(width=160, file=sink).print(comparison_table(comparison))
    lines = {line.split()[0]: line for line in sink.getvalue().splitlines() if line.startswith((" spec_style/", " retrieval/"))}
    assert lines.keys() == {item.name for item in comparison.metrics}
    for item in comparison.metrics:
        assert signed(item.difference) in lines[item.name]
        assert (" u " in lines[item.name]) == (not item.primary)
