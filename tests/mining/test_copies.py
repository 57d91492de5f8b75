from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fgray.data.index import ImageIndex, open_images
from fgray.errors import DataError
from fgray.mining.copies import make_copies
from tests.small_data import write_picture

KEYS = [f"folder/p{number}" for number in range(12)]
TRANSFORMS = ["cropped", "flipped", "reencoded", "rescaled"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    root = tmp_path_factory.mktemp("pictures")
    for number, key in enumerate(KEYS):
        write_picture(root / f"{key}.jpg", number, (60 + number, 48))
    return open_images(str(root))


def sources(index: ImageIndex, keys: list[str]) -> pa.Table:
    rows = index.locate(keys)
    return rows.append_column("root", pa.array([index.root_uri] * rows.num_rows))


def contents(copies: ImageIndex) -> dict[str, bytes]:
    return dict(zip(copies.keys.to_pylist(), copies.read(copies.table), strict=True))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def made(index: ImageIndex, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(make_copies(sources(index, KEYS), 0, str(tmp_path_factory.mktemp("store")), 10**6))


@pytest.fixture(scope="module")
def originals(index: ImageIndex) -> dict[str, bytes]:
    return dict(zip(KEYS, index.read(index.locate(KEYS)), strict=True))


def test_every_source_has_every_transform_under_a_new_key(made) -> None:
    assert sorted(made) == sorted(f"audit/{name}/{key}" for name in TRANSFORMS for key in KEYS)


def test_reencoded_is_the_same_picture_in_fewer_bytes(made, originals) -> None:
    for key in KEYS:
        copy = made[f"audit/reencoded/{key}"]
        assert len(copy) < len(originals[key])
        assert np.abs(pixels(copy) - pixels(originals[key])).mean() < 6


def test_flipped_is_mirrored_from_left_to_right(made, originals) -> None:
    for key in KEYS:
        mirrored = pixels(originals[key])[:, ::-1]
        assert np.abs(pixels(made[f"audit/flipped/{key}"]) - mirrored).mean() < 4
        assert np.abs(pixels(made[f"audit/flipped/{key}"]) - mirrored[:, ::-1]).mean() > 10


def test_rescaled_has_half_to_nine_tenths_of_the_size(made, originals) -> None:
    factors = []
    for key in KEYS:
        copy, original = (Image.open(io.BytesIO(data)) for data in (made[f"audit/rescaled/{key}"], originals[key]))
        ratios = [ours / theirs for ours, theirs in zip(copy.size, original.size, strict=True)]
        assert abs(ratios[0] - ratios[1]) < 0.03
        assert 0.48 <= min(ratios) <= max(ratios) <= 0.92
        smaller = np.asarray(original.resize(copy.size, Image.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(copy).astype(int) - smaller).mean() < 8
        factors.append(ratios[0])
    assert max(factors) - min(factors) > 0.1  # they are not all of one size


def test_cropped_is_a_window_of_70_to_95_percent(made, originals) -> None:
    corners = set()
    for key in KEYS:
        copy, original = pixels(made[f"audit/cropped/{key}"]), pixels(originals[key])
        (height, width), (full_height, full_width) = copy.shape[:2], original.shape[:2]
        for ours, theirs in ((height, full_height), (width, full_width)):
            assert 0.7 * theirs - 0.5 <= ours <= 0.95 * theirs + 0.5
        errors = {
            (top, left): np.abs(original[top : top + height, left : left + width] - copy).mean()
            for top in range(full_height - height + 1)
            for left in range(full_width - width + 1)
        }
        best = min(errors, key=errors.__getitem__)
        assert errors[best] < 4  # some window matches up to JPEG's losses
        corners.add(best)
    assert len(corners) > len(KEYS) // 2  # the windows lie in different places


def test_a_copy_depends_on_seed_and_content_only(index: ImageIndex, made, tmp_path: Path) -> None:
    few = [KEYS[7], KEYS[2]]
    again = contents(make_copies(sources(index, few), 0, str(tmp_path), 10**6))
    assert again == {key: made[key] for key in again}
    assert len(again) == 8
    other = contents(make_copies(sources(index, few), 1, str(tmp_path), 10**6))
    same = [key for key in other if other[key] == made[key]]
    assert sorted(same) == sorted(f"audit/flipped/{key}" for key in few)  # nothing is drawn for a mirror image


def test_copies_are_reused_not_made_again(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "one.png", 1)
    index = open_images(str(tmp_path / "images"))
    rows = sources(index, ["one"])
    first = contents(make_copies(rows, 0, str(tmp_path / "store"), 10**6))
    (tmp_path / "images" / "one.png").unlink()  # the source is not read any more
    assert contents(make_copies(rows, 0, str(tmp_path / "store"), 10**6)) == first


def test_a_source_that_is_no_image_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "good.jpg", 1)
    (tmp_path / "bad.jpg").write_bytes(b"no image at all")
    with pytest.raises(DataError, match="image 'bad' cannot be copied for the audit"):
        make_copies(sources(open_images(str(tmp_path)), ["bad", "good"]), 0, str(tmp_path / "store"), 10**6)


def test_sources_of_two_folders(tmp_path: Path) -> None:
    for number in range(4):
        write_picture(tmp_path / f"{number % 2}" / f"p{number}.jpg", number)
    tables = [sources(open_images(str(tmp_path / f"{part}")), [f"p{part + 2}", f"p{part}"]) for part in (1, 0)]
    copies = contents(make_copies(pa.concat_tables(tables), 0, str(tmp_path / "store"), 10**6))
    for number in range(4):
        mirrored = pixels((tmp_path / f"{number % 2}" / f"p{number}.jpg").read_bytes())[:, ::-1]
        assert np.abs(pixels(copies[f"audit/flipped/p{number}"]) - mirrored).mean() < 4
