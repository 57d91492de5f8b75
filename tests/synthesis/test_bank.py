"""The object bank: what may be redistributed, what is named, and that it shows what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fgray.synthesis
from fgray.synthesis.bank import load_bank

FOLDER = Path(fgray.synthesis.__file__).parent / "bank"
RECORDS = json.loads((FOLDER / "bank.json").read_text())
ITEMS = RECORDS["cut_outs"] + RECORDS["backgrounds"]


@pytest.fixture(scope="module")
def coco(data_root: Path) -> dict[str, Any]:
    return json.loads((data_root / "coco128" / "annotations" / "instances_val2017.json").read_text())


def test_everything_is_under_a_licence_that_allows_it(coco: dict[str, Any]) -> None:
    licences = {image["id"]: image["license"] for image in coco["images"]}
    for item in ITEMS:
        assert item["licence_id"] == licences[item["image_id"]]
        assert item["licence_id"] in (4, 5, 7)


def test_every_image_file_is_attributed_with_its_address_and_licence() -> None:
    lines = (FOLDER / "ATTRIBUTION.md").read_text().splitlines()
    on_disk = {path.name for path in FOLDER.iterdir()} - {"bank.json", "ATTRIBUTION.md"}
    assert on_disk == {item["file"] for item in ITEMS}
    for item in ITEMS:
        line = [line for line in lines if line.startswith(f"| {item['file']} |")]
        assert len(line) == 1
        assert item["flickr_url"] in line[0] and item["licence_url"] in line[0]


def test_the_bank_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 5 * 1024 * 1024


def test_no_background_shows_a_category_of_the_bank(coco: dict[str, Any]) -> None:
    names = {category["id"]: category["name"] for category in coco["categories"]}
    nouns = set(load_bank().categories)
    for background in RECORDS["backgrounds"]:
        left, top, width, height = background["box"]
        for annotation in coco["annotations"]:
            if annotation["image_id"] != background["image_id"]:
                continue
            x, y, w, h = annotation["bbox"]
            apart = x >= left + width or x + w <= left or y >= top + height or y + h <= top
            assert apart or names[annotation["category_id"]] not in nouns
            assert apart or names[annotation["category_id"]] in background["visible"]


def test_cut_outs_are_whole_soft_edged_and_named_after_their_annotation(coco: dict[str, Any]) -> None:
    names = {category["id"]: category["name"] for category in coco["categories"]}
    annotations = {annotation["id"]: annotation for annotation in coco["annotations"]}
    for item in RECORDS["cut_outs"]:
        assert item["category"] in {names[annotations[one]["category_id"]] for one in item["annotation_ids"]}
        image = Image.open(FOLDER / item["file"])
        assert image.mode == "RGBA" and list(image.size) == item["size"]
        assert max(image.size) >= 125 and min(image.size) >= 75
        alpha = np.asarray(image)[..., 3]
        soft = ((alpha > 0) & (alpha < 255)).mean()
        assert (alpha == 255).mean() > 0.1 and 0 < soft < 0.3
        assert all(edge.max() > 0 for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))  # cropped to the object


def test_cut_outs_hold_the_photographs_own_pixels(coco: dict[str, Any], data_root: Path) -> None:
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    compared = 0
    for item in RECORDS["cut_outs"]:
        if item["size"] != item["box"][2:]:
            continue  # turned or scaled down
        left, top, width, height = item["box"]
        photo = Image.open(data_root / "coco128" / "val2017" / files[item["image_id"]]).convert("RGB")
        there = np.asarray(photo.crop((left, top, left + width, top + height)), dtype=int)
        here = np.asarray(Image.open(FOLDER / item["file"]), dtype=int)
        solid = here[..., 3] == 255
        assert np.abs(there - here[..., :3]).max(axis=2)[solid].mean() < 2
        compared += 1
    assert compared >= 8
