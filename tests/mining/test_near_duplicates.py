from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from fgray.data.index import open_images
from fgray.errors import ConfigError, DataError
from fgray.mining import image_hash
from fgray.mining.image_hash import FREQUENCIES, SIZE, distances, hash_bank, hash_images
from fgray.mining.near_duplicates import NearDuplicateImages, NearDuplicateTexts
from fgray.mining.resources import Resources
from tests.mining.measure_near_duplicates import COPIES, bank_of, open_rgb, train_images
from tests.mining.small_sides import COMPUTE, full_candidates, small_resources, small_sides
from tests.small_data import write_picture

SAMPLE = 150


@pytest.fixture(scope="module")
def photographs(data_root: Path) -> list[Image.Image]:
    return [open_rgb(path) for path in train_images(data_root)[:SAMPLE]]


@pytest.fixture(scope="module")
def banks(photographs) -> np.ndarray:
    return bank_of(photographs)


def bits(value: int) -> list[int]:
    return [int(bit) for bit in f"{value:064b}"]


def test_the_hash_of_the_frame_is_the_signs_of_scipys_cosine_coefficients(photographs, banks):
    differing = []
    for photograph, bank in zip(photographs[:20], banks, strict=False):
        light = np.asarray(photograph.resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("L"), float)
        low = dctn(light)[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
        expected = (low > np.median(low)).tolist()
        found = bits(int.from_bytes(np.array([bank[0]]).tobytes(), "big"))
        differing.append(sum(one != other for one, other in zip(expected, found[1:], strict=True)))
        assert found[0] == 0
    # Brightness is rounded by Pillow and integrated over pixels by us, so that values at the median may change sides.
    assert max(differing) <= 2


def test_mirrored_column_is_the_hash_of_the_mirrored_picture(photographs, banks):
    mirrored = bank_of([photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for photograph in photographs[:30]])
    assert np.bitwise_count(mirrored[:, 0] ^ banks[:30, 1]).max() <= 2


def test_windows_are_hashes_of_crops(photographs, banks):
    for bank, photograph in zip(banks[:10], photographs, strict=False):
        # The second stretch of each axis: the first 92 %.
        width, height = (side * 0.92 for side in photograph.size)
        crop = photograph.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(0, 0, width, height))
        own = hash_bank(np.asarray(crop)[None])[0, 0]
        assert np.bitwise_count(bank[2:] ^ own).min() <= 4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(2, 6))
def test_distances_equal_a_loop(seed, width):
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 2**64, (2, 5, width), dtype=np.uint64)
    right[0, rng.integers(width)] = left[0, rng.integers(2)]
    for one, other, found in zip(left.tolist(), right.tolist(), distances(left, right).tolist(), strict=True):
        pairs = [(a, b) for a in one[:2] for b in other] + [(a, b) for a in one for b in other[:2]]
        assert found == min((a ^ b).bit_count() for a, b in pairs)


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_caught(name, photographs, banks):
    rng = np.random.default_rng(11)
    copies = bank_of([COPIES[name](photograph, rng) for photograph in photographs])
    limit = NearDuplicateImages().hash_distance
    assert (distances(copies, banks) <= limit).mean() >= 0.95
    assert (distances(banks, copies) <= limit).mean() >= 0.95


def test_different_pictures_stay(banks):
    one, other = np.triu_indices(SAMPLE, 1)
    assert (distances(banks[one], banks[other]) <= NearDuplicateImages().hash_distance).mean() <= 0.01


# --- through the engine ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, photographs) -> Path:
    """Photographs p0 … p5, a byte-equal copy of p0, a crop of p1, the mirror image of p2, and two files that are no pictures."""
    root = tmp_path / "images"
    root.mkdir()
    for n in range(6):
        photographs[n].save(root / f"p{n}.jpg", quality=92)
    shutil.copy(root / "p0.jpg", root / "x0.jpg")
    width, height = photographs[1].size
    photographs[1].crop((0, height // 10, round(width * 0.8), height)).save(root / "x1.jpg", quality=60)
    photographs[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "x2.png")
    (root / "z0.jpg").write_bytes(b"no picture")
    (root / "z1.jpg").write_bytes(b"no picture either")
    return root


KEYS = [*(f"p{n}" for n in range(6)), "x0", "x1", "x2", "z0", "z1"]
DUPLICATES = {("p0", "x0"), ("p1", "x1"), ("p2", "x2")}


def dropped(filter_, sides, resources) -> set[tuple[str, str]]:
    candidates = full_candidates(sides)
    out = ~filter_.keep(candidates, sides, resources)
    return {(sides.anchors.keys[a], sides.corpus.keys[c]) for a, c in zip(candidates.anchor[out], candidates.corpus[out], strict=True)}


def test_images_that_look_alike_are_dropped_and_unreadable_ones_are_not(folder, tmp_path):
    sides = small_sides("image_to_image", KEYS, [], [], index=open_images(str(folder)))
    found = dropped(NearDuplicateImages(), sides, small_resources(tmp_path / "store"))
    assert found == {(key, key) for key in KEYS[:9]} | DUPLICATES | {(b, a) for a, b in DUPLICATES}
    exact = dropped(NearDuplicateImages(hash_distance=0), sides, small_resources(tmp_path / "store"))
    assert {("p0", "x0"), ("x0", "p0")} <= exact


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image", "text_to_text"])
def test_texts_stand_for_their_images(direction, folder, tmp_path):
    texts = ["of p0", "of p1 and p4", "of x1", "of z0", "without"]
    shown = {"of p0": {"p0"}, "of p1 and p4": {"p1", "p4"}, "of x1": {"x1"}, "of z0": {"z0"}, "without": set()}
    links = [(KEYS.index(image), texts.index(text)) for text, images in shown.items() for image in images]
    sides = small_sides(direction, KEYS, texts, links, index=open_images(str(folder)))
    alike = DUPLICATES | {(b, a) for a, b in DUPLICATES} | {(key, key) for key in KEYS[:9]}

    def pictures(key: str) -> set[str]:
        return shown.get(key, {key})

    expected = {
        (one, other)
        for one in sides.anchors.keys
        for other in sides.corpus.keys
        if any((a, b) in alike for a in pictures(one) for b in pictures(other))
    }
    assert dropped(NearDuplicateImages(), sides, small_resources(tmp_path / "store")) == expected


def test_hashes_are_computed_once_and_kept_by_content(folder, tmp_path):
    store = tmp_path / "store"
    index = open_images(str(folder))
    first = hash_images([(index, KEYS[:4])], str(store), COMPUTE, 10**7)
    parts = {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")}
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    (moved / "p0.jpg").rename(moved / "q0.jpg")
    again = hash_images([(open_images(str(moved)), ["p2", "q0"]), (index, ["p3"])], str(store), COMPUTE, 10**7)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")} == parts
    np.testing.assert_array_equal(again.bank, first.bank[[2, 0, 3]])
    more = hash_images([(index, KEYS)], str(store), COMPUTE, 10**7)
    assert len(list(store.rglob("*.parquet"))) == len(parts) + 1
    assert more.known.tolist() == [True] * 9 + [False] * 2
    assert more.bank.shape == (11, first.bank.shape[1])
    assert hash_images([], str(store), COMPUTE, 10**7).bank.shape == (0, first.bank.shape[1])


def test_another_recipe_is_kept_apart(monkeypatch):
    before = image_hash.fingerprint()
    monkeypatch.setattr(image_hash, "STRETCHES", ((1.0, 1),))
    assert image_hash.fingerprint() != before


def test_hashing_wants_images():
    sides = small_sides("image_to_text", ["a"], ["b"], [(0, 0)])
    with pytest.raises(DataError, match="near_duplicate_images has no images to compare"):
        NearDuplicateImages().check(sides)


# --- by embedding and by words -----------------------------------------------------------------------------------------


def test_images_by_embedding_equal_a_loop(tmp_path):
    keys = [f"p{n}" for n in range(6)]
    for n, key in enumerate(keys):
        write_picture(tmp_path / "images" / f"{key}.png", n % 5)
    sides = small_sides("image_to_image", keys, [], [], index=open_images(str(tmp_path / "images")))
    resources = small_resources(tmp_path / "store")
    vectors = resources.embeddings(sides.corpus).astype(float)
    cosines = vectors @ vectors.T
    limit = float(np.median(cosines))
    close = {(a, b) for i, a in enumerate(keys) for j, b in enumerate(keys) if cosines[i, j] > limit}
    assert dropped(NearDuplicateImages(hash_distance=None, cosine=limit + 1e-5), sides, resources) == close
    twins = {(key, key) for key in keys} | {("p0", "p5"), ("p5", "p0")}
    assert dropped(NearDuplicateImages(hash_distance=None, cosine=1.0), sides, resources) == twins


WORDS = ["red", "dog", "cat", "runs", "sea"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.sampled_from([0.1, 1 / 3, 0.5, 2 / 3, 0.75, 0.9, 1.0]), captions=st.booleans())
def test_overlap_of_words_equals_a_loop(seed, limit, captions, tmp_path_factory):
    rng = np.random.default_rng(seed)
    texts = sorted({" ".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(8)})
    links = [(n % 3, n) for n in range(len(texts))]
    direction = "text_to_image" if captions else "text_to_text"
    sides = small_sides(direction, ["i", "j", "k"], texts, links)

    def said(key: str) -> list[str]:
        return [key] if key in texts else [texts[t] for i, t in links if "ijk"[i] == key]

    def overlap(one: str, other: str) -> float:
        a, b = set(re.split(" ", one)), set(re.split(" ", other))
        return len(a & b) / len(a | b)

    expected = {
        (one, other)
        for one in sides.anchors.keys
        for other in sides.corpus.keys
        if any(overlap(a, b) >= limit - 1e-12 for a in said(one) for b in said(other))
    }
    resources = small_resources(tmp_path_factory.mktemp("store"))
    assert dropped(NearDuplicateTexts(token_overlap=limit), sides, resources) == expected


def test_texts_by_embedding_equal_a_loop(tmp_path):
    texts = sorted(["a dog", "a dog runs", "the sea", "two birds", "a red bus"])
    sides = small_sides("text_to_text", [], texts, [])
    resources = small_resources(tmp_path)
    vectors = resources.embeddings(sides.corpus).astype(float)
    cosines = vectors @ vectors.T
    limit = float(np.median(cosines))
    close = {(a, b) for i, a in enumerate(texts) for j, b in enumerate(texts) if cosines[i, j] > limit}
    assert dropped(NearDuplicateTexts(token_overlap=None, cosine=limit + 1e-5), sides, resources) == close


def test_embeddings_without_a_model_are_refused(tmp_path):
    sides = small_sides("text_to_text", [], ["a", "b"], [])
    resources = Resources(None, str(tmp_path), COMPUTE, 10**7)
    with pytest.raises(ConfigError, match="compares embeddings of its own"):
        NearDuplicateTexts(cosine=0.9).keep(full_candidates(sides), sides, resources)
