"""What a step gets of regions, against pixels cut by hand; what does not travel; mistakes in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgray.config.train import RegionsConfig
from fgray.errors import ConfigError, DataError
from fgray.models.preprocess import Preprocess
from fgray.training.batch import Batch
from fgray.training.order import Order
from fgray.training.reader import Reader
from fgray.training.sources import Source, load_sources
from tests.training.small_sources import train_job

SIDE = 32
PREPROCESS = Preprocess((SIDE, SIDE))
SIZES = {"a": (64, 48), "b": (50, 80), "c": (40, 40), "d": (64, 48), "e": (90, 60)}
# x, y, w, h, caption. Image c has no usable region (too small, or beside the picture), d none at all; two of a share a caption.
BOXES: dict[str, list[tuple[float, float, float, float, str]]] = {
    "a": [
        (4.0, 6.0, 20.0, 12.5, "left"),
        (30.0, 20.0, 30.0, 25.0, "right"),
        (10.0, 10.0, 30.0, 30.0, "left"),
        (50.0, 3.0, 20.0, 20.0, "cut"),
    ],
    "b": [(0.0, 0.0, 50.0, 80.0, "all"), (10.0, 40.0, 9.0, 9.0, "small")],
    "c": [(3.0, 3.0, 7.0, 7.0, "tiny"), (60.0, 60.0, 20.0, 20.0, "outside")],
    "e": [(20.0 + 3 * i, 10.0, 15.0, 15.0 + i, f"e{i}") for i in range(9)],
}


def write(folder: Path) -> dict[str, Any]:
    """Write smooth pictures, two captions each, and their regions; return the source's section."""
    (folder / "images").mkdir(parents=True)
    for number, (key, (width, height)) in enumerate(SIZES.items()):
        coarse = np.random.default_rng(number).integers(0, 255, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / "images" / f"{key}.png")
    pairs = [{"image": key, "text": f"{key} {word}"} for key in SIZES for word in ("one", "two")]
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    rows = [dict(zip(("image", *"xywh", "text"), (key, *box), strict=True)) for key, boxes in BOXES.items() for box in boxes]
    pq.write_table(pa.Table.from_pylist(rows), folder / "regions.parquet")
    section = {"name": "file", "root": str(folder / "pairs.parquet"), "images": str(folder / "images")}
    return {"pairs": section, "regions": {"boxes": str(folder / "regions.parquet")}}


def sources_of(folder: Path) -> list[Source]:
    section = write(folder) if not (folder / "images").exists() else None
    section = section or {
        "pairs": {"name": "file", "root": str(folder / "pairs.parquet"), "images": str(folder / "images")},
        "regions": {"boxes": str(folder / "regions.parquet")},
    }
    return load_sources(train_job([section], regions={}), str(folder / "cache"))


def batches(
    folder: Path, steps: range, ranks: tuple[int, int] = (0, 1), regions: dict[str, Any] | None = None, **options: Any
) -> list[Batch]:
    sources = sources_of(folder)
    order = Order([len(sources[0])], [1.0], 10, 3, [sources[0].shards])
    job = train_job([{"pairs": {"name": "file"}}])
    config = RegionsConfig(**(regions or {}))
    with Reader(sources, order, PREPROCESS, job.negatives, seed=3, rank=ranks[0], world=ranks[1], regions=config, **options) as reader:
        return [reader.batch(step) for step in steps]


def by_hand(key: str, caption: str, fractions: np.ndarray, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return the fractions and the crop of the region that says so: FineCLIP's squash and 1.5-fold crop."""
    width, height = image.size
    for x, y, w, h, text in BOXES[key]:
        right, bottom = min(x + w, width), min(y + h, height)
        box = np.array([x / width, y / height, right / width, bottom / height])
        if text == caption and np.allclose(box, fractions, atol=1e-6):
            edges = [max(x - 0.25 * w, 0), max(y - 0.25 * h, 0), min(x + 1.25 * w, width), min(y + 1.25 * h, height)]
            cut = image.crop(tuple(round(edge) for edge in edges))
            return box, np.asarray(cut.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    raise AssertionError(f"{key} has no region {caption} at {fractions}")


def test_pictures_boxes_and_crops_are_those_cut_by_hand(tmp_path: Path) -> None:
    seen = set()
    for batch in batches(tmp_path, range(3)):
        regions = batch.regions
        assert regions is not None and regions.crops is not None and regions.texts is not None
        assert (np.diff(regions.image_of) >= 0).all()
        keys = [text.split()[0] for text in batch.texts[: batch.size]]
        for anchor, key in enumerate(keys):
            picture = Image.open(tmp_path / "images" / f"{key}.png")
            np.testing.assert_array_equal(batch.images[anchor], picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        for box, anchor, caption, crop in zip(regions.boxes, regions.image_of.tolist(), regions.texts, regions.crops, strict=True):
            picture = Image.open(tmp_path / "images" / f"{keys[anchor]}.png")
            np.testing.assert_array_equal(crop, by_hand(keys[anchor], caption, box, picture)[1])
            seen.add((keys[anchor], caption))
        counts = np.bincount(regions.image_of, minlength=batch.size)
        assert {key: count for key, count in zip(keys, counts.tolist(), strict=True)} == {"a": 4, "b": 2, "c": 0, "d": 0, "e": 9}
    assert ("a", "cut") in seen and ("e", "e8") in seen


def test_an_image_without_a_valid_region_brings_none(tmp_path: Path) -> None:
    """Facts, bugs 5 and 10: upstream ships a made-up box with an empty caption there, and always B x `most` crops."""
    (batch,) = batches(tmp_path, range(1))
    regions = batch.regions
    assert regions is not None and regions.crops is not None and regions.texts is not None
    assert len(regions.boxes) == len(regions.crops) == len(regions.texts) == 2 * (4 + 2 + 9)
    assert "" not in regions.texts and "tiny" not in regions.texts and "outside" not in regions.texts
    assert regions.crops.nbytes == 30 * SIDE * SIDE * 3 < 10 * 20 * SIDE * SIDE * 3


def test_at_most_so_many_drawn_anew_in_every_pass(tmp_path: Path) -> None:
    drawn = []
    for batch in batches(tmp_path, range(4), regions={"most": 3}):
        assert batch.regions is not None and batch.regions.texts is not None
        counts = np.bincount(batch.regions.image_of, minlength=batch.size)
        assert counts.max() == 3
        drawn.append({text for text in batch.regions.texts if text.startswith("e")})
    assert len({frozenset(one) for one in drawn}) > 1 and drawn == [
        {text for text in batch.regions.texts if text.startswith("e")} for batch in batches(tmp_path, range(4), regions={"most": 3})
    ]


def test_any_number_of_ranks_and_threads_reads_the_same(tmp_path: Path) -> None:
    (whole,) = batches(tmp_path, range(2, 3), regions={"most": 3}, threads=1)
    parts = [batches(tmp_path, range(2, 3), (rank, 10), {"most": 3}, threads=3)[0] for rank in range(10)]
    cut = whole.micro(1)
    for part, expected in zip(parts, cut, strict=True):
        np.testing.assert_array_equal(part.images, expected.images)
        for field in dataclasses.fields(expected.regions):
            np.testing.assert_array_equal(getattr(part.regions, field.name), getattr(expected.regions, field.name))
    assert any(len(part.regions.boxes) == 0 for part in parts) and sum(len(part.regions.boxes) for part in parts) == len(
        whole.regions.boxes
    )


def test_only_what_a_loss_reads_travels(tmp_path: Path) -> None:
    (batch,) = batches(tmp_path, range(1), wanted=frozenset({"roi", "region_text"}))
    assert batch.regions.crops is None and len(batch.regions.texts) == 30
    (batch,) = batches(tmp_path, range(1), wanted=frozenset({"roi", "crop"}))
    assert batch.regions.texts is None and len(batch.regions.crops) == 30


def test_letter_boxed_pictures_of_another_size(tmp_path: Path) -> None:
    """CLIPSelf: the longer side becomes 64 px, black below or to the right; crops keep the model's own size."""
    (batch,) = batches(tmp_path, range(1), regions={"image_size": 64, "resize": "letterbox", "enlarge": 1.0})
    assert batch.images.shape[1:] == (64, 64, 3) and batch.regions.crops.shape[1:] == (SIDE, SIDE, 3)
    keys = [text.split()[0] for text in batch.texts[: batch.size]]
    for box, anchor, caption in zip(batch.regions.boxes, batch.regions.image_of.tolist(), batch.regions.texts, strict=True):
        if keys[anchor] == "b":  # 50 x 80 becomes 40 x 64
            expected = {"all": [0, 0, 40 / 64, 1], "small": [8 / 64, 32 / 64, 15.2 / 64, 39.2 / 64]}[caption]
            np.testing.assert_allclose(box, expected, atol=1e-6)
            assert not batch.images[anchor][:, 40:].any()


def painted(folder: Path) -> None:
    """Overwrite picture a: black, but for a white rectangle that fills its only region exactly."""
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[120:300, 200:420] = 255
    Image.fromarray(pixels).save(folder / "images" / "a.png")
    rows = [{"image": "a", "x": 200.0, "y": 120.0, "w": 220.0, "h": 180.0, "text": "white"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "regions.parquet")


def test_boxes_follow_random_windows_and_resizes_to_the_pixel(tmp_path: Path) -> None:
    write(tmp_path)
    painted(tmp_path)
    places = set()
    for options in ({"augment": "random_resized_crop"}, {}, {"regions": {"resize": "letterbox"}}):
        options = {"regions": {}, **options}
        options["regions"] = {**options["regions"], "image_size": 320}
        for batch in batches(tmp_path, range(8), **options):
            for box, anchor in zip(batch.regions.boxes, batch.regions.image_of.tolist(), strict=True):
                bright = batch.images[anchor].mean(axis=2) > 127
                rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
                seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                np.testing.assert_allclose(box * 320, seen, atol=0.75)  # half a pixel of resampling, and a rounded edge
                places.add(tuple(box.round(4).tolist()))
    assert len(places) > 8


def test_a_region_that_a_window_cuts_off_is_dropped(tmp_path: Path) -> None:
    """What is left of a box at the border is at least half of it."""
    write(tmp_path)
    rows = [{"image": "e", "x": float(x), "y": 0.0, "w": 9.0, "h": 60.0, "text": f"x{x}"} for x in (0, 40, 81)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "regions.parquet")
    counts = [len(batch.regions.boxes) for batch in batches(tmp_path, range(6), augment="random_resized_crop")]
    assert min(counts) < 6 and max(counts) <= 6
    for batch in batches(tmp_path, range(6), augment="random_resized_crop"):
        assert (batch.regions.boxes >= 0).all() and (batch.regions.boxes <= 1).all()


def test_the_fingerprint_knows_the_regions(tmp_path: Path) -> None:
    first = sources_of(tmp_path)[0]
    bare = dataclasses.replace(first, regions=None)
    table = pq.read_table(tmp_path / "regions.parquet")
    pq.write_table(table.slice(1), tmp_path / "regions.parquet")
    fewer = sources_of(tmp_path)[0]
    assert len({one.fingerprint for one in (first, bare, fewer)}) == 3
    bare_job = train_job([{"pairs": {"name": "file", "root": str(tmp_path / "pairs.parquet"), "images": str(tmp_path / "images")}}])
    assert load_sources(bare_job, str(tmp_path / "cache"))[0].fingerprint == bare.fingerprint


ROW = {"image": "a", "x": 1.0, "y": 1.0, "w": 20.0, "h": 20.0, "text": "box"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "a", "x": 1.0, "y": 2.0, "w": 3.0, "text": "t"}], "column 'h' is missing"),
        ([{**ROW, "image": "z"}], "no region is of an image of the pairs"),
        ([{**ROW, "w": 2.0}], "no region has an area between"),
        ([{**ROW, "x": "left"}], "no readable regions"),
        ([ROW, {**ROW, "text": None}], "no readable regions"),
    ],
)
def test_mistakes_in_regions_are_one_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    section = write(tmp_path)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "regions.parquet")
    with pytest.raises(DataError, match=message) as caught:
        load_sources(train_job([section], regions={}), str(tmp_path / "cache"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": None}, "regions are given in two places"),
        ({"regions": {"teacher": "ema"}}, "teacher ema needs optimizer.ema"),
        ({"regions": {"resize": "letterbox"}, "augment": "random_resized_crop"}, "augment goes with regions.resize squash only"),
    ],
)
def test_mistakes_in_the_configuration(changes: dict[str, Any], message: str) -> None:
    section = {"pairs": {"name": "file"}, "regions": {"boxes": "x.parquet"}}
    with pytest.raises(ValueError, match=message):
        train_job([section], **changes)


def test_a_size_that_does_not_divide_into_patches(tmp_path: Path) -> None:
    from fgray.config.schema import TinyModel
    from fgray.training.model import build_trainable

    with pytest.raises(ConfigError, match="pictures of 44 px do not divide into cells of 8 px"):
        build_trainable(TinyModel(kind="tiny"), regions=RegionsConfig(image_size=44))
