from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fgray.data.index import open_images
from fgray.embedding import Compute
from fgray.mining.image_hash import Hashes, distances
from fgray.mining.overlap import Overlap, find_overlaps, near_pictures
from tests.small_data import write_picture

COMPUTE = Compute(runner="serial", device="cpu", workers=1, decode_workers=1, batch_size=32, unit_rows=64, threads=1)
PIXELS = 10**7


def photographs(data_root: Path, count: int, split: str) -> list[Path]:
    rows = [json.loads(line) for line in (data_root / "flickr8k" / "captions.jsonl").read_text().splitlines()]
    return [data_root / "flickr8k" / row["image"] for row in rows if row["split"] == split][:count]


def test_copies_of_photographs_are_found(data_root: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(), theirs.mkdir()
    for number, path in enumerate(photographs(data_root, 60, "train")):
        (ours / f"{number:03d}.jpg").write_bytes(path.read_bytes())
    for number, path in enumerate(photographs(data_root, 60, "test")):
        (theirs / f"{number:03d}.jpg").write_bytes(path.read_bytes())
    image = {number: Image.open(ours / f"{number:03d}.jpg").convert("RGB") for number in (3, 8, 21, 34, 40, 55)}
    image[3].save(theirs / "jpeg.jpg", quality=40)
    image[8].resize((400, 380), Image.Resampling.BILINEAR).save(theirs / "larger.png")
    ImageOps.mirror(image[21]).save(theirs / "mirrored.jpg", quality=90)
    image[40].crop((10, 4, 215, 220)).save(theirs / "part.jpg", quality=60)
    ImageOps.mirror(image[55].crop((0, 12, 200, 224)).resize((320, 240))).save(theirs / "part, mirrored.jpg", quality=80)
    (theirs / "same.jpg").write_bytes((ours / "034.jpg").read_bytes())
    found = find_overlaps(open_images(str(ours)), open_images(str(theirs)), str(tmp_path / "store"), COMPUTE, PIXELS)
    assert found == [
        Overlap("003", "jpeg", "picture"),
        Overlap("008", "larger", "picture"),
        Overlap("021", "mirrored", "picture"),
        Overlap("034", "same", "file"),
        Overlap("040", "part", "picture"),
        Overlap("055", "part, mirrored", "picture"),
    ]


def test_coco_ids(tmp_path: Path) -> None:
    names = {
        "ours": ["train2014/COCO_train2014_000000000009", "000000000025", "a/000000000030", "x_000000000034", "0000000000036"],
        "theirs": ["000000000009", "val2014/COCO_val2014_000000000025", "b/COCO_test2015_000000000030", "000000000034", "000000000036"],
    }
    for number, (folder, keys) in enumerate(names.items()):
        for row, key in enumerate(keys):
            write_picture(tmp_path / folder / f"{key}.png", 100 * number + row)
    ours, theirs = (open_images(str(tmp_path / folder)) for folder in names)
    found = find_overlaps(ours, theirs, str(tmp_path / "store"), COMPUTE, PIXELS)
    assert {(one.image, one.other, one.reason) for one in found} == {(names["ours"][i], names["theirs"][i], "coco") for i in range(3)}


def test_damaged_images_match_nothing_but_their_bytes(tmp_path: Path) -> None:
    for folder in ("ours", "theirs"):
        write_picture(tmp_path / folder / "good.png", {"ours": 1, "theirs": 2}[folder])
        (tmp_path / folder / "bad.jpg").write_bytes(b"no image, " + folder.encode())
        (tmp_path / folder / "equal.jpg").write_bytes(b"no image either")
    ours, theirs = (open_images(str(tmp_path / folder)) for folder in ("ours", "theirs"))
    assert find_overlaps(ours, theirs, str(tmp_path / "store"), COMPUTE, PIXELS) == [Overlap("equal", "equal", "file")]


def test_distances_are_those_of_mining() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 1 << 63, (40, 11), dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (300, 11, 8), dtype=np.uint64)
    ours = theirs[rng.integers(0, 40, 300)]
    for bits in range(8):  # so that distances from 0 to 8 occur in every column
        ours = np.where(rng.random((300, 11)) < 0.5, ours ^ flips[:, :, bits], ours)
    known = Hashes(ours, rng.random(300) < 0.9), Hashes(theirs, rng.random(40) < 0.9)
    found = near_pictures(*known, distance=2)
    expected = [
        [i, j]
        for i in np.flatnonzero(known[0].known)
        for j in np.flatnonzero(known[1].known)
        if distances(ours[i : i + 1], theirs[j : j + 1])[0] <= 2
    ]
    assert found.tolist() == expected
    assert 20 < len(expected) < 280
    assert near_pictures(Hashes(ours[:0], known[0].known[:0]), known[1], 2).shape == (0, 2)
