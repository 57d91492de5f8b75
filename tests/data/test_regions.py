"""Region tables, masks as run lengths, and case sets that ask with regions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgray.data.cases import CaseSet
from fgray.data.masks import coco_mask, decode_mask, encode_mask
from fgray.data.regions import region_table
from fgray.errors import DataError
from fgray.storage import open_storage

ROW = {"region_id": "a", "key": "k", "mode": "roi", "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0}
CASE = {"case_id": "c", "subset": "s", "task": "classify", "cluster_id": "k", "query_kind": "region", "query": "a"}
CASE |= {"candidate_kind": "text", "candidates": ["x", "y"], "labels": [0]}


@given(st.integers(1, 9), st.integers(1, 9), st.randoms())
def test_a_mask_survives_its_run_lengths(height: int, width: int, random) -> None:
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)], bool)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=9), st.booleans())
def test_long_runs_survive_too(runs: list[int], first: bool) -> None:
    values = [first ^ bool(number % 2) for number in range(len(runs))]
    mask = np.repeat(values, runs).reshape(-1, 1)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


def test_run_lengths_are_cocos_text_form() -> None:
    # By hand: column by column 0 0 0 1 1 0 0 1 1 -> runs 3 2 2 2; the fourth is written as its difference to the second, 0.
    mask = np.array([[0, 1, 0], [0, 1, 1], [0, 0, 1]], bool)
    assert encode_mask(mask) == b"3 3 3220"
    # 40 zeros are two groups of five bits: 40 = 8 + 1 * 32, then 24 ones need a second group since bit 16 is the sign.
    assert encode_mask(np.repeat([False, True], [40, 24]).reshape(64, 1)) == b"64 1 X1h0"
    assert np.array_equal(coco_mask({"size": [3, 3], "counts": "3220"}, 3, 3, "here"), mask)
    assert np.array_equal(coco_mask({"size": [3, 3], "counts": [3, 2, 2, 2]}, 3, 3, "here"), mask)


def test_a_polygon_is_filled() -> None:
    mask = coco_mask([[1, 1, 4, 1, 4, 3, 1, 3]], 6, 8, "here")
    expected = np.zeros((6, 8), bool)
    expected[1:4, 1:5] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "bad",
    [
        {"size": [3, 3], "counts": [3, 2]},
        {"size": [2, 3], "counts": [6]},
        "text",
        [[1, 2, 3]],
        {"size": [3, 3]},
        {"size": [3, 3], "counts": "с"},  # a Cyrillic letter
        {"size": [3, 3], "counts": "abc"},
        {"size": [3, 3], "counts": ["q"]},
        [["a"] * 6],
    ],
)
def test_bad_segmentations_are_refused(bad: object) -> None:
    with pytest.raises(DataError, match="here"):
        coco_mask(bad, 3, 3, "here")


@pytest.mark.parametrize("stored", [b"", b"3 3", b"x y 1", b"3 3 3221", b"3 3 32\x01", b"3 3 X"])
def test_bad_stored_masks_are_refused(stored: bytes) -> None:
    with pytest.raises(DataError):
        decode_mask(stored)


BAD = [{"mode": "box"}, {"resize": "pad"}, {"w": 0.0}, {"h": -1.0}, {"x": float("nan")}, {"mask": b"1 1 1"}, {"mode": "mask"}]


@pytest.mark.parametrize("change", [*BAD, {"enlarge": 0.5}, {"size": -1}])
def test_bad_regions_are_refused(change: dict[str, object]) -> None:
    region_table([ROW])
    with pytest.raises(DataError):
        region_table([ROW | change])


def test_region_ids_are_unique() -> None:
    with pytest.raises(DataError, match="duplicate region id 'a'"):
        region_table([ROW, ROW])


def test_a_case_set_keeps_its_regions(tmp_path: Path) -> None:
    rows = [ROW | {"region_id": name, "key": name.upper()} for name in "abc"]
    cases = [CASE | {"case_id": str(number), "query": name, "subset": "s"} for number, name in enumerate("ab")]
    made = CaseSet.from_rows(cases, regions=region_table(rows))
    made.save(open_storage(str(tmp_path)))
    loaded = CaseSet.load(open_storage(str(tmp_path)))
    assert loaded.regions is not None and loaded.regions.equals(made.regions)
    assert loaded.references("region") == ["a", "b"] and loaded.references("image") == []
    assert loaded.pictures() == ["A", "B", "C"]
    limited = loaded.limited(1)
    assert limited.regions is not None and limited.regions["region_id"].to_pylist() == ["a"]
    assert limited.pictures() == ["A"]


def test_a_case_set_names_only_its_own_regions() -> None:
    for regions, query in itertools.product([None, region_table([ROW])], ["b"]):
        with pytest.raises(DataError, match="unknown region 'b'"):
            CaseSet.from_rows([CASE | {"query": query}], regions=regions)
