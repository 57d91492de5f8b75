"""Charts have the shape of their numbers."""

from __future__ import annotations

import re

import pytest
from bs4 import BeautifulSoup, Tag

from fgray.report.charts import curve, histogram, lines


def drawn(svg: str) -> BeautifulSoup:
    return BeautifulSoup(svg, "html.parser")


def heights(soup: BeautifulSoup, style: str) -> list[tuple[str, float]]:
    return [(rect.title.get_text(), float(str(rect["height"]))) for rect in soup.select(f"rect.{style}")]


def test_bars_are_as_high_as_their_counts_each_side_to_its_own_scale() -> None:
    soup = drawn(histogram([-0.1, 0.0, 0.1, 0.2], [10, 0, 40], [500, 1000, 0], "scores <b>"))
    kept, dropped = heights(soup, "kept"), heights(soup, "dropped")
    assert [name for name, _ in kept] == ["kept: 10 from −0.1 to 0", "kept: 40 from 0.1 to 0.2"]
    assert [name for name, _ in dropped] == ["dropped: 500 from −0.1 to 0", "dropped: 1,000 from 0 to 0.1"]
    assert kept[0][1] / kept[1][1] == pytest.approx(0.25) and dropped[0][1] / dropped[1][1] == pytest.approx(0.5)
    assert kept[1][1] == dropped[1][1]  # the highest of both sides
    base = {float(str(rect["y"])) + float(str(rect["height"])) for rect in soup.select("rect.kept")}
    assert base == {float(str(rect["y"])) for rect in soup.select("rect.dropped")} and len(base) == 1
    assert soup.svg["aria-label"] == "scores <b>: 50 kept, 1,500 dropped"
    assert {text.get_text() for text in soup.select("text")} >= {"40", "1,000", "−0.1", "0", "0.2"}


def test_one_empty_side_is_drawn() -> None:
    soup = drawn(histogram([0.0, 1.0], [0], [3], "x"))
    assert not soup.select("rect.kept") and len(soup.select("rect.dropped")) == 1


def points(line: Tag) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in str(line["points"]).split()]  # type: ignore[misc]


def test_a_curve_runs_from_the_bottom_to_the_top_of_the_axis() -> None:
    soup = drawn(curve([0.0, 1.0, 4.0], {"exact": [0.0, 0.5, 1.0], "cropped": [None, 0.25, 0.25]}, [0, 0, 0.1], 2.0, "x"))
    (exact,), (cropped,), (price,) = ([points(line) for line in soup.select(f"polyline.{style}")] for style in ("s0", "s1", "price"))
    (x0, bottom), (x1, middle), (x4, top) = exact
    grid = sorted({float(str(line["y1"])) for line in soup.select("line.grid, line.axis")})
    assert (top, bottom) == (grid[0], grid[-1]) and middle == pytest.approx((top + bottom) / 2)
    assert (x1 - x0) / (x4 - x0) == pytest.approx(0.25, abs=1e-3)  # linear in the threshold
    assert [x for x, _ in cropped] == [x1, x4]  # the gap
    assert price[-1][1] == pytest.approx(bottom + 0.1 * (top - bottom), abs=0.01)
    (mark,) = soup.select("line.current")
    assert float(str(mark["x1"])) == float(str(mark["x2"])) == pytest.approx((x0 + x4) / 2, abs=0.01)


@pytest.mark.parametrize("current", [None, -1.0, 5.0])
def test_a_threshold_off_the_axis_is_not_marked(current: float | None) -> None:
    assert not drawn(curve([0.0, 4.0], {}, [0, 1], current, "x")).select("line.current")


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ([0.0, 24.0], ["0", "5", "10", "15", "20"]),
        ([0.5, 1.0], ["0.5", "0.6", "0.7", "0.8", "0.9", "1"]),
        ([-0.3, 0.3], ["−0.3", "−0.2", "−0.1", "0", "0.1", "0.2", "0.3"]),
        ([0.2, 0.2], ["0.2"]),
    ],
)
def test_the_axis_has_round_values(thresholds: list[float], expected: list[str]) -> None:
    soup = drawn(curve(thresholds, {}, [0, 1], None, "x"))
    texts = [text.get_text() for text in soup.select("text")]
    assert [text for text in texts if not re.fullmatch(r"\d+%", text)] == expected


def test_labels_of_a_narrow_scale_tell_its_lines_apart() -> None:
    picture = str(lines([1, 2, 3], {"scale": [14.2452, 14.2871, 14.2603]}, "Logit scale"))
    labels = re.findall(r'text-anchor="end"[^>]*>([^<]+)<', picture)
    assert len(labels) >= 4 and len(set(labels)) == len(labels)
    assert all(14.24 < float(label) < 14.29 for label in labels)
