"""Composed images measured from their pixels, by other means than the composer's and the oracle's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

SIDE = 448
Box = tuple[int, int, int, int]  # left, top, right, bottom


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def changed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two pictures differ by more than JPEG explains, specks removed."""
    return ndimage.binary_opening(np.abs(one - other).max(axis=2) > 24, np.ones((2, 2)))


def bounds(mask: np.ndarray) -> Box:
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def regions(mask: np.ndarray) -> list[Box]:
    """Bounding boxes of what is left when gaps up to 8 px are bridged and specks dropped."""
    labels, count = ndimage.label(ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=4))
    found = [bounds(mask & (labels == label)) for label in range(1, count + 1) if (mask & (labels == label)).sum() > 120]
    return sorted(found)


def longest(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def cases(folder: Path, subset: str) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield, per case, the empty canvas and the image that each text belongs to."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in json.loads((folder / subset / "text2image.json").read_text()):
        name = row["keys"][row["label"]]
        found.setdefault(name.split("/")[1].split("-")[0], {})[row["query"]] = pixels(folder / subset / name)
    for number, images in found.items():
        yield pixels(folder / "backgrounds" / subset / f"{number}.jpg"), images


def attribute(text: str, pattern: str) -> str:
    match = re.fullmatch(pattern, text)
    assert match, text
    return match.group(1)


def same_everywhere(found: list[list[Box]]) -> Box:
    """The box that all images of a case share within 4 px."""
    shared = [box for box in found[0] if all(any(np.abs(np.subtract(box, other)).max() <= 4 for other in boxes) for boxes in found[1:])]
    assert len(shared) == 1, found
    return shared[0]


def test_layout_is_specs_own_and_the_canvas_is_square(composed: Path) -> None:
    sizes = {"absolute_size": 3, "relative_size": 3, "absolute_spatial": 9, "relative_spatial": 4, "existence": 2, "count": 9}
    for subset, k in sizes.items():
        for file in ("image2text.json", "text2image.json"):
            rows = json.loads((composed / subset / file).read_text())
            assert len(rows) == 20 * k
            assert all(set(row) == {"query", "keys", "label"} and len(set(row["keys"])) == k for row in rows)
            # every position is right equally often, so a constant scorer whose ties go to the first is right for 1 in k
            assert Counter(row["label"] for row in rows) == dict.fromkeys(range(k), 20)
        images = sorted((composed / subset / "images").iterdir())
        assert len(images) == 20 * k
        assert all(Image.open(path).size == (SIDE, SIDE) for path in images)


def test_both_files_of_a_subset_agree(small: Path) -> None:
    for subset in ("existence", "count", "relative_spatial"):
        forward = {(row["query"], row["keys"][row["label"]]) for row in json.loads((small / subset / "image2text.json").read_text())}
        backward = {(row["keys"][row["label"]], row["query"]) for row in json.loads((small / subset / "text2image.json").read_text())}
        assert forward == backward


def test_everything_pasted_lies_in_the_crop_that_every_model_sees(small: Path) -> None:
    for subset in ("absolute_size", "relative_size", "absolute_spatial", "relative_spatial", "existence", "count"):
        for empty, images in cases(small, subset):
            for image in images.values():
                left, top, right, bottom = bounds(changed(image, empty))
                assert min(left, top) >= SIDE / 16 - 2 and max(right, bottom) <= SIDE * 15 / 16 + 2


def test_absolute_size(small: Path) -> None:
    for empty, images in cases(small, "absolute_size"):
        share = {
            attribute(text, r"the .+ is (.+) in the image"): longest(bounds(changed(image, empty))) / SIDE for text, image in images.items()
        }
        assert 0.74 < share["large"] < 0.85
        assert 0.40 < share["medium-sized"] < 0.51
        assert 0.17 < share["small"] < 0.26


def test_relative_size(small: Path) -> None:
    for empty, images in cases(small, "relative_size"):
        found = {
            attribute(text, r"the .+ is (smaller than|equal-size with|bigger than) the .+"): regions(changed(image, empty))
            for text, image in images.items()
        }
        fixed = same_everywhere(list(found.values()))
        for word, ratio in (("smaller than", 0.5), ("equal-size with", 1.0), ("bigger than", 2.0)):
            (moving,) = [box for box in found[word] if np.abs(np.subtract(box, fixed)).max() > 4]
            assert longest(moving) / longest(fixed) == pytest.approx(ratio, rel=0.12)


def test_absolute_spatial(small: Path) -> None:
    names = ["top-left corner", "top", "top-right corner", "left", "center", "right", "bottom-left corner", "bottom", "bottom-right corner"]
    for empty, images in cases(small, "absolute_spatial"):
        for text, image in images.items():
            x, y = centre(bounds(changed(image, empty)))
            row, column = (int(np.digitize(value, [SIDE / 3, 2 * SIDE / 3])) for value in (y, x))
            assert attribute(text, r"the .+ is in the (.+) of the image") == names[3 * row + column]


def test_relative_spatial(small: Path) -> None:
    for empty, images in cases(small, "relative_spatial"):
        found = {
            attribute(text, r"the .+ is (to the left of|to the right of|on top of|below) the .+"): regions(changed(image, empty))
            for text, image in images.items()
        }
        fixed = same_everywhere(list(found.values()))
        for word, boxes in found.items():
            (moving,) = [box for box in boxes if np.abs(np.subtract(box, fixed)).max() > 4]
            apart = {
                "to the left of": fixed[0] - moving[2],
                "to the right of": moving[0] - fixed[2],
                "on top of": fixed[1] - moving[3],
                "below": moving[1] - fixed[3],
            }
            assert [other for other, gap in apart.items() if gap > 0] == [word]


def test_existence_pairs_share_a_distractor(small: Path) -> None:
    for empty, images in cases(small, "existence"):
        (present,) = [image for text, image in images.items() if re.fullmatch(r"there is an? .+ in the image", text)]
        (absent,) = [image for text, image in images.items() if re.fullmatch(r"there is no .+ in the image", text)]
        assert len(regions(changed(absent, empty))) == 1  # the distractor alone
        assert len(regions(changed(present, empty))) == 2
        added = changed(present, absent)
        assert len(regions(added)) == 1
        assert not (ndimage.binary_erosion(added, iterations=2) & changed(absent, empty)).any()  # the distractor did not move


def test_count_grows_by_one_object_a_step(small: Path) -> None:
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for empty, images in cases(small, "count"):
        by_number = {attribute(text, r"a photo of (\w+) .+"): image for text, image in images.items()}
        before, taken = empty, np.zeros((SIDE, SIDE), bool)
        for number in numbers:
            added = changed(by_number[number], before)
            left, top, right, bottom = bounds(added)
            assert min(right - left, bottom - top) >= 46 and max(right - left, bottom - top) <= SIDE / 3
            assert not taken[top:bottom, left:right].any()
            taken[top:bottom, left:right] = True
            before = by_number[number]


def test_only_the_named_object_differs_from_the_background_category(small: Path) -> None:
    meta = json.loads((small / "meta.json").read_text())
    assert len(meta["cases"]) == 36
    for case in meta["cases"]:
        assert case["other"] != case["category"]
        assert all(f" {case['category']}" in image["text"] or case["subset"] == "count" for image in case["images"])


def test_two_fresh_processes_write_the_same_bytes_whatever_their_threads(tmp_path: Path) -> None:
    program = (
        "import sys, hashlib; from fgray.synthesis.bank import load_bank; from fgray.synthesis.compose import compose;"
        "from fgray.synthesis.layout import LAYOUTS;"
        "[print(path, hashlib.sha256(data).hexdigest()) for path, data in compose(load_bank(), list(LAYOUTS), 2, int(sys.argv[1]))]"
    )
    outputs = []
    for threads, seed in (("1", "7"), ("4", "7"), ("1", "8")):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        command = [sys.executable, "-c", program, seed]
        run = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, check=True)
        outputs.append(run.stdout)
    assert outputs[0].count(b"\n") == 2 * 30 + 6 * 2 + 6 * 2 + 1
    assert outputs[0] == outputs[1]
    assert hashlib.sha256(outputs[0]).digest() != hashlib.sha256(outputs[2]).digest()
