"""The verdicts on mined negatives: a seeded draw, untouched, with identifiers only, and the shares in the README."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from scipy.stats import binomtest

from tests.verdicts.draw_mined import draw

HERE = Path(__file__).resolve().parent
KINDS = {
    "image_to_image": ("image", "image"),
    "image_to_text": ("image", "text"),
    "text_to_image": ("text", "image"),
    "text_to_text": ("text", "text"),
}
VERDICTS = ("valid", "false negative", "broken")
DRAWN = 50
IN_RUN = {"image_to_image": 12_500, "image_to_text": 62_480, "text_to_image": 62_480, "text_to_text": 62_335}  # negatives in the run's file


class Captions(NamedTuple):
    """Captions of the photographs, by the photograph's name, and the other way round."""

    by_image: dict[str, list[str]]
    images_of: dict[str, set[str]]

    def text(self, name: str) -> str:
        """Return the caption that NAME#INDEX stands for."""
        image, _, index = name.partition("#")
        return self.by_image[image][int(index)]

    def images(self, name: str) -> set[str]:
        """Return the photographs that an identifier belongs to: one, or all that have the caption."""
        return self.images_of[self.text(name)] if "#" in name else {name}


@pytest.fixture(scope="module")
def captions(data_root: Path) -> Captions:
    by_image: dict[str, list[str]] = {}
    images_of: dict[str, set[str]] = {}
    for line in (data_root / "flickr8k" / "captions.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["split"] == "train":
            by_image[Path(entry["image"]).stem] = entry["captions"]
            for caption in entry["captions"]:
                images_of.setdefault(caption, set()).add(Path(entry["image"]).stem)
    return Captions(by_image, images_of)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (HERE / "mined.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def of_family(rows: list[dict[str, str]], family: str) -> list[dict[str, str]]:
    return [row for row in rows if row["family"] == family]


def test_fifty_of_every_family_with_a_verdict_each(rows: list[dict[str, str]]) -> None:
    assert list(rows[0]) == ["family", "anchor", "negative", "rank", "score", "verdict", "note"]
    assert {row["family"] for row in rows} == set(KINDS)
    for family in KINDS:
        anchors = [row["anchor"] for row in of_family(rows, family)]
        assert len(anchors) == len(set(anchors)) == DRAWN, family
    for row in rows:
        assert row["verdict"] in VERDICTS, row
        assert row["verdict"] == "valid" or row["note"], f"a verdict other than valid says why: {row}"
        assert 1 <= int(row["rank"]) <= 100, row
        assert re.fullmatch(r"-?[01]\.\d{4}", row["score"]), row


def test_identifiers_are_of_photographs_and_captions_that_the_filters_let_pass(rows: list[dict[str, str]], captions: Captions) -> None:
    for row in rows:
        for name, kind in zip((row["anchor"], row["negative"]), KINDS[row["family"]], strict=True):
            assert ("#" in name) == (kind == "text"), row
            assert captions.images(name) <= set(captions.by_image), row
        assert not captions.images(row["anchor"]) & captions.images(row["negative"]), f"same photograph: {row}"


def hashes(row: dict[str, str], captions: Captions) -> list[bytes]:
    """Return the places that a row can have in the draw with seed 0: one, or one per caption of the anchor that can be the positive."""
    family = row["family"]
    anchor, negative = (
        captions.text(name) if kind == "text" else f"images/{name}"
        for name, kind in zip((row["anchor"], row["negative"]), KINDS[family], strict=True)
    )
    positives = {
        "image_to_text": captions.by_image.get(row["anchor"], []),
        "text_to_image": [f"images/{image}" for image in captions.images(row["anchor"])],
    }.get(family, [""])
    return [hashlib.sha256(json.dumps([0, family, anchor, positive, negative]).encode()).digest() for positive in positives]


@pytest.mark.parametrize("family", KINDS)
def test_rows_are_the_first_of_the_draw_and_none_was_exchanged(family: str, rows: list[dict[str, str]], captions: Captions) -> None:
    """The hashes ascend and stay in the small share of all hashes where the first fifty of the run's negatives must lie."""
    place = b""
    for row in of_family(rows, family):
        later = [digest for digest in hashes(row, captions) if digest > place]
        assert later, f"out of the draw's order: {row}"
        place = min(later)
    share = int.from_bytes(place, "big") / 2**256
    assert 0.5 * DRAWN / IN_RUN[family] < share < 2 * DRAWN / IN_RUN[family]


def test_no_caption_is_in_the_file(data_root: Path) -> None:
    text = " ".join((HERE / "mined.csv").read_text().lower().split())
    lines = (data_root / "flickr8k" / "captions.jsonl").read_text().splitlines()
    every = [caption for line in lines for caption in json.loads(line)["captions"]]
    bare = {" ".join(caption.lower().rstrip(" .").split()) for caption in every} - {""}
    assert len(bare) > 10_000
    assert not [caption for caption in bare if caption in text]


def percent(count: int) -> str:
    interval = binomtest(count, DRAWN).proportion_ci(method="wilson")
    return f"{100 * count / DRAWN:.0f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def test_shares_in_the_readme_are_those_of_the_file(rows: list[dict[str, str]]) -> None:
    section = (HERE / "README.md").read_text().split("\n## Mined negatives\n")[1].split("\n## ")[0]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    told = {cells[0].strip("`"): cells[1:] for cells in table[2:]}
    assert set(told) == set(KINDS)
    for family, cells in told.items():
        mine = of_family(rows, family)
        counts = [sum(row["verdict"] == verdict for row in mine) for verdict in VERDICTS]
        close = [row["verdict"] for row in mine if row["note"].startswith("close:")]
        low = counts[1] - close.count("false negative")
        expected = [f"{count}: {percent(count)}" for count in counts]
        assert cells == [*expected, f"{len(close)}: {low} to {low + len(close)}"], family


def test_draw_takes_one_per_anchor_whatever_the_order_of_the_file() -> None:
    def row(direction: str, anchor: str) -> dict[str, object]:
        negatives = [{"ref": f"{anchor}-{place}", "rank": place, "score": 1 / place} for place in range(1, 6)]
        return {"direction": direction, "anchor": anchor, "positive": None, "negatives": negatives}

    table = [row(direction, f"image {number}") for direction, number in itertools.product(KINDS, range(40))]
    first = draw(table, "image_to_text", count=20)
    assert first == draw(table[::-1], "image_to_text", count=20)
    assert {item.direction for item in first} == {"image_to_text"}
    assert len({item.anchor for item in first}) == 20
    assert len({item.rank for item in first}) > 1
    assert all(item.negative == f"{item.anchor}-{item.rank}" and item.score == 1 / item.rank for item in first)
    assert first != draw(table, "image_to_text", count=20, seed=1)
    assert len(draw(table, "image_to_text", count=100)) == 40
