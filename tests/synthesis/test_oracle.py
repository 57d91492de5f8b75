"""The oracle: right on what was composed, at chance where images or labels are shuffled."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fgray.synthesis.bank import load_bank
from fgray.synthesis.layout import LAYOUTS
from fgray.synthesis.oracle import answer, find_blobs, observed


def test_every_case_carries_its_attribute_both_ways(composed: Path) -> None:
    entries = json.loads((composed / "oracle.json").read_text())
    assert set(entries) == {f"spec_style/{subset}/oracle_{task}_accuracy" for subset in LAYOUTS for task in ("i2t", "t2i")}
    for name, entry in entries.items():
        assert entry["value"] == entry["correct"] / entry["count"] >= 0.99, name
        assert entry["count"] == 20 / entry["chance"]


def test_it_follows_the_pixels(small: Path) -> None:
    """Each image of a case takes the next one's place: every answer must change with it, and so be wrong."""
    moved: dict[str, Path] = {}
    for subset in LAYOUTS:
        groups: dict[str, list[Path]] = {}
        for path in sorted((small / subset / "images").iterdir()):
            groups.setdefault(path.name.split("-")[0], []).append(path)
        for group in groups.values():
            for path, other in zip(group, group[1:] + group[:1], strict=True):
                moved[f"{subset}/images/{path.name}"] = other
    for name, entry in answer(lambda path: moved.get(path, small / path).read_bytes(), load_bank(), list(LAYOUTS)).items():
        assert entry["value"] <= 0.01, name


def test_labels_drawn_at_random_bring_it_to_chance(composed: Path) -> None:
    rng = np.random.default_rng(1)

    def read(path: str) -> bytes:
        data = (composed / path).read_bytes()
        if not path.endswith(".json"):
            return data
        rows = json.loads(data)
        return json.dumps([{**row, "label": int(rng.integers(len(row["keys"])))} for row in rows]).encode()

    for name, entry in answer(read, load_bank(), ["existence", "relative_size", "relative_spatial"]).items():
        deviation = math.sqrt(entry["chance"] * (1 - entry["chance"]) * entry["count"])
        assert 4 * deviation < (1 - entry["chance"]) * entry["count"]  # a perfect score would not pass
        assert abs(entry["correct"] - entry["chance"] * entry["count"]) <= 4 * deviation, name


def test_images_without_objects_are_not_answered(small: Path) -> None:
    def read(path: str) -> bytes:
        parts = path.split("/")
        if parts[1] == "images":
            return (small / "backgrounds" / parts[0] / f"{parts[2].split('-')[0]}.jpg").read_bytes()
        return (small / path).read_bytes()

    entry = answer(read, load_bank(), ["count"])["spec_style/count/oracle_t2i_accuracy"]
    assert entry["value"] == pytest.approx(entry["chance"])  # all images are the same, so the first position wins


def test_blobs_are_found_where_they_were_drawn() -> None:
    empty = Image.linear_gradient("L").resize((448, 448)).convert("RGB")
    image = empty.copy()
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 60, 139, 99), fill=(255, 0, 0))
    draw.ellipse((300, 200, 399, 299), fill=(0, 0, 255))
    large, small = find_blobs(observed(image), observed(empty))
    assert (large.x, large.y) == pytest.approx((350 / 448, 250 / 448), abs=3 / 448)
    assert (small.x, small.y, small.width, small.height) == pytest.approx((90 / 448, 80 / 448, 100 / 448, 40 / 448), abs=4 / 448)
    assert find_blobs(observed(empty), observed(empty)) == []
