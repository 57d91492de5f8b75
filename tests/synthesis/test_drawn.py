"""Drawn banks: what the splits share and what not, that drawings are what they were, and that composed cases carry their attribute."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from fgray.config.schema import ComputeConfig
from fgray.data.index import open_images
from fgray.embedding import resolve_compute
from fgray.mining.overlap import find_overlaps
from fgray.synthesis.bank import load_bank
from fgray.synthesis.compose import compose, pair_up
from fgray.synthesis.drawn import DrawnBank, drawn_bank
from fgray.synthesis.folder import composed_folder, folder_name
from fgray.synthesis.layout import LAYOUTS, EveryOtherQuarter, countable

CASES = 5


@pytest.fixture(scope="module", params=["train", "test"])
def bank(request: pytest.FixtureRequest) -> DrawnBank:
    return drawn_bank(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cache = str(tmp_path_factory.mktemp("drawn"))
    return {split: Path(composed_folder(cache, list(LAYOUTS), CASES, 2, drawn_bank(split)).uri) for split in ("train", "test")}


def test_the_splits_share_names_and_nothing_else() -> None:
    train, test = drawn_bank("train"), drawn_bank("test")
    assert train.categories == test.categories and 16 <= len(train.categories) <= 24
    assert train.digest != test.digest
    plurals = {one.category: one.plural for one in train.cut_outs}
    assert all(plurals[one.category] == one.plural != one.category for one in test.cut_outs)
    for items in ("cut_outs", "backgrounds"):
        ours, theirs = getattr(train, items), getattr(test, items)
        assert len({one.file for one in (*ours, *theirs)}) == len(ours) + len(theirs)
    styles = [{one.file.rpartition("-")[2] for one in bank.cut_outs} for bank in (train, test)]
    families = [{one.file.split("/")[1].split("-")[0] for one in bank.backgrounds} for bank in (train, test)]
    assert [len(found) for found in (*styles, *families)] == [9, 5, 6, 3]
    assert not styles[0] & styles[1] and not families[0] & families[1]
    shown = [{bank.scaled(one, 40).tobytes() for one in bank.cut_outs[::7]} for bank in (train, test)]
    assert not shown[0] & shown[1] and all(len(found) == len(bank.cut_outs[::7]) for found, bank in zip(shown, (train, test), strict=True))


def test_selection_is_like_the_test_and_none_of_it() -> None:
    selection, test = drawn_bank("selection"), drawn_bank("test")
    assert selection.categories == test.categories and selection.digest != test.digest
    for items in ("cut_outs", "backgrounds"):
        ours, theirs = getattr(selection, items), getattr(test, items)
        kinds = [{re.sub(r"^\w+/|\d+|-", " ", one.file) for one in side} for side in (ours, theirs)]
        assert kinds[0] == kinds[1]
        shown = [{bank.image(one).tobytes() for one in side} for bank, side in ((selection, ours), (test, theirs))]
        assert not shown[0] & shown[1] and [len(one) for one in shown] == [len(ours), len(theirs)]


def test_hues_are_the_splits_own(bank: DrawnBank) -> None:
    """Sixths of the circle of hues, one half of each; where two tones meet, their mixture may have any hue."""
    lower = bank.split == "train"
    pictures = [bank.image(one) for one in (*bank.cut_outs[::11], *bank.backgrounds[::5])]
    for picture in pictures:
        pixels = np.asarray(picture.convert("RGBA"))
        hue, saturation, value = (np.asarray(picture.convert("RGB").convert("HSV"), dtype=float)[..., i] for i in range(3))
        vivid = (pixels[..., 3] == 255) & (saturation > 100) & (value > 100)
        if vivid.sum() < 200:
            continue
        within = hue[vivid] * 360 / 255 % 60
        good = (within < 33) | (within > 57) if lower else (within > 27) | (within < 3)
        assert good.mean() > 0.8


def test_categories_that_meet_in_training_never_meet_in_the_test() -> None:
    met = {}
    for split in ("train", "test"):
        bank = drawn_bank(split)
        pairs = [pair for seed in range(8) for pair in pair_up(bank.cut_outs, np.random.default_rng(seed), bank.may_meet)]
        met[split] = {frozenset((a.category, b.category)) for a, b in pairs}
        assert all(len(pair) == 2 for pair in met[split])
        partners = {name: sum(name in pair for pair in met[split]) for name in bank.categories}
        assert min(partners.values()) >= 7
    assert not met["train"] & met["test"]


def test_ranges_are_cut_into_quarters() -> None:
    for low, high in ((0.0, 1.0), (-3.0, 5.0), (0.78, 0.83)):
        draws = [EveryOtherQuarter(np.random.default_rng(0), first).uniform(low, high, size=4000) for first in (0, 1)]
        quarters = [np.unique(np.floor((one - low) / (high - low) * 4).astype(int)).tolist() for one in draws]
        assert quarters == [[0, 2], [1, 3]]
    for low, high in ((100, 115), (104, 117), (150, 179), (3, 7)):
        sets = [{int(EveryOtherQuarter(np.random.default_rng(seed), first).integers(low, high)) for seed in range(400)} for first in (0, 1)]
        assert not sets[0] & sets[1] and sets[0] | sets[1] == set(range(low, high))
    for first in (0, 1):
        rng = EveryOtherQuarter(np.random.default_rng(1), first)
        assert {float(rng.choice([-1.0, 1.0])) for _ in range(50)} == {-1.0, 1.0}
        assert sorted(rng.permutation(9).tolist()) == list(range(9))


@pytest.mark.parametrize("subset", LAYOUTS)
def test_layouts_of_the_splits_differ(subset: str) -> None:
    """The same objects in both, so that all that can differ is where they stand and how large they are."""
    a, b = (drawn_bank("train").of_category(name)[0] for name in ("apple", "star"))
    layouts = {}
    for split in ("train", "test"):
        rngs = (drawn_bank(split).ranges(np.random.default_rng(seed)) for seed in range(150))
        scenes = itertools.chain.from_iterable(LAYOUTS[subset](rng, a, b).scenes for rng in rngs)
        layouts[split] = {tuple((round(p.x, 6), round(p.y, 6), p.longest) for p in scene) for scene in scenes}
        assert len(layouts[split]) > 100
    assert not layouts["train"] & layouts["test"]
    if subset in ("absolute_spatial", "relative_spatial"):
        sizes = [{place[2] for scene in layouts[split] for place in scene} for split in ("train", "test")]
        assert not sizes[0] & sizes[1]


def test_every_object_can_be_counted_and_is_cropped_to_its_ink(bank: DrawnBank) -> None:
    for one in bank.cut_outs:
        assert countable(one) and one.slenderness >= 0.45
        picture = bank.scaled(one, 100)
        assert picture.mode == "RGBA" and max(picture.size) == 100
        alpha = np.asarray(picture)[..., 3]
        assert (alpha > 200).mean() > 0.12
        assert all(edge.max() > 20 for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))


def test_every_case_carries_its_attribute_both_ways(folders: dict[str, Path]) -> None:
    for split, folder in folders.items():
        entries = json.loads((folder / "oracle.json").read_text())
        assert len(entries) == 12
        for name, entry in entries.items():
            assert entry["value"] >= 0.9 and entry["count"] == CASES / entry["chance"], (split, name)
        assert sum(entry["correct"] for entry in entries.values()) >= 0.99 * sum(entry["count"] for entry in entries.values())


def test_composed_drawings_are_small_and_come_from_their_split(folders: dict[str, Path]) -> None:
    for split, folder in folders.items():
        meta = json.loads((folder / "meta.json").read_text())
        used = {file for case in meta["cases"] for file in (*case["cut_outs"], case["background"])}
        assert all(file.startswith(f"{split}/") for file in used) and len(used) > 15
        for case in meta["cases"]:
            for image in case["images"]:
                for one in image["objects"]:
                    left, top, width, height = one["box"]
                    assert min(left, top) >= 6 and max(left + width, top + height) <= 106
            with Image.open(folder / case["images"][0]["path"]) as picture:
                assert picture.size == (112, 112)


def test_no_training_picture_looks_like_one_of_the_test(folders: dict[str, Path], tmp_path: Path) -> None:
    """Training refuses images of the sets that it is tested on, by files and by what they show; both must find the splits apart."""
    subsets = ("absolute_size", "absolute_spatial", "existence")
    keys = [f"{subset}/images/{case:04d}-{place}" for subset in subsets for case in range(CASES) for place in (0, 1)]
    ours, theirs = (open_images(str(folders[split]), str(tmp_path), keys) for split in ("train", "test"))
    compute = resolve_compute(ComputeConfig(runner="serial"), None)
    assert find_overlaps(ours, theirs, str(tmp_path), compute, 10**6) == []
    assert len(find_overlaps(ours, ours, str(tmp_path), compute, 10**6)) == len(keys)


def test_another_process_draws_the_same_bytes() -> None:
    program = (
        "import hashlib; from fgray.synthesis.drawn import drawn_bank; from fgray.synthesis.pictures import draw_pictures;"
        "print([hashlib.sha256(data).hexdigest() for _, data in draw_pictures(drawn_bank('test'), 12, 4)])"
    )
    from fgray.synthesis.pictures import draw_pictures

    here = [hashlib.sha256(data).hexdigest() for _, data in draw_pictures(drawn_bank("test"), 12, 4)]
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=True, text=True).stdout
    assert there.strip() == str(here) and len(set(here)) == 13


def test_the_photographs_folder_is_named_as_ever() -> None:
    assert folder_name(load_bank(), list(LAYOUTS), 20, 0) == "spec_style-92d6a4b9cc00ae8b"


@pytest.mark.skipif((PIL.__version__, np.__version__) != ("13.0.0", "2.4.6"), reason="the bytes of other Pillow or NumPy versions")
def test_the_photographs_cases_are_byte_for_byte_as_ever() -> None:
    digest = hashlib.sha256()
    for path, data in compose(load_bank(), list(LAYOUTS), 3, 0):
        digest.update(path.encode() + b"\0" + data)
    assert digest.hexdigest() == "3a4abc43bed273e5a1b5dab76dab509fbd475d901dafde873fe8a43e2a1ac2c4"
