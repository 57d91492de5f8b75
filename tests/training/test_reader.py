from __future__ import annotations

import io
import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgray.data.importers import FolderSource
from fgray.data.shards import build_shards
from fgray.errors import ConfigError, DataError, NotFound
from fgray.models.preprocess import Preprocess
from fgray.storage import open_storage
from fgray.training.batch import Batch
from fgray.training.order import Order
from fgray.training.reader import Reader
from fgray.training.sources import Source, load_sources
from tests.training.small_sources import train_job, write_negatives, write_pairs

SIZE = 16
PREPROCESS = Preprocess((SIZE, SIZE))
KEYS = [f"k{i}" for i in range(9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pictures with one or two captions; some have negative texts of two types, some negative images."""
    section = write_pairs(tmp_path, {key: [f"{key} one", f"{key} two"][: 1 + i % 2] for i, key in enumerate(KEYS)})
    rows = []
    for i, key in enumerate(KEYS):
        rows.append(("text_edit", f"{key} one", None, [(f"{key} {t} {n}", t, n != 1) for t in ("noun", "verb") for n in range(3)][: i + 1]))
        if i % 3:
            rows.append(("image_to_image", key, None, [(KEYS[(i + step) % 9], "mined", True) for step in (1, 2, 4)]))
    write_negatives(tmp_path / "negatives.parquet", rows)
    (tmp_path / "section.json").write_text(json.dumps(section))
    return tmp_path


def sources_of(folder: Path, **negatives) -> tuple[list[Source], object]:
    section = json.loads((folder / "section.json").read_text())
    files = [str(folder / "negatives.parquet")] if negatives else []
    job = train_job([{"pairs": section, "negatives": files}], negatives=negatives)
    return load_sources(job, str(folder / "cache")), job.negatives


def order_of(sources: list[Source], batch: int, seed: int = 3) -> Order:
    return Order([len(one) for one in sources], [one.share for one in sources], batch, seed, [one.shards for one in sources])


def batches(folder: Path, steps, batch: int = 6, negatives: dict | None = None, ranks=((0, 1),), **options) -> list[list[Batch]]:
    """Return for each rank its batches."""
    sources, config = sources_of(folder, **negatives or {})
    found = []
    for rank, world in ranks:
        with Reader(sources, order_of(sources, batch), PREPROCESS, config, seed=3, rank=rank, world=world, **options) as reader:
            found.append([reader.batch(step) for step in steps])
    return found


def said(batch: Batch) -> list[tuple]:
    """What each anchor brings, pictures as bytes, read through the index arrays."""
    rows = []
    for i in range(batch.size):
        texts = tuple(None if at < 0 else batch.texts[at] for at in batch.text_index[i])
        images = tuple(None if at < 0 else batch.images[at].tobytes() for at in batch.image_index[i])
        rows.append((batch.samples[i], batch.texts[i], batch.images[i].tobytes(), texts, images))
    return rows


def expected_pixels(folder: Path, key: str) -> bytes:
    return PREPROCESS(Image.open(folder / "images" / f"{key}.png").convert("RGB")).tobytes()


NEGATIVES = {"texts": 3, "images": 2}


def test_an_epoch_brings_every_pair_with_its_picture_as_in_evaluation(folder: Path) -> None:
    (found,) = batches(folder, range(26), batch=1)
    pairs = {f"{key} {number}": key for i, key in enumerate(KEYS) for number in ("one", "two")[: 1 + i % 2]}
    for epoch in (found[:13], found[13:]):
        assert sorted(batch.texts[0] for batch in epoch) == sorted(pairs)
    for batch in found:
        assert batch.images.tobytes() == expected_pixels(folder, pairs[batch.texts[0]])
        assert batch.text_index.shape == batch.image_index.shape == (1, 0)


def test_negatives_are_those_of_the_anchor(folder: Path) -> None:
    (found,) = batches(folder, range(8), negatives=NEGATIVES)
    some_texts = some_images = 0
    for batch in found:
        assert batch.images.shape == (6 + (batch.image_index >= 0).sum(), SIZE, SIZE, 3)
        assert len(batch.texts) == 6 + (batch.text_index >= 0).sum()
        for _, text, _, texts, images in said(batch):
            key, number = text.split(" ")
            i = KEYS.index(key)
            valid = [f"{key} {t} {n}" for t in ("noun", "verb") for n in range(3)][: i + 1]
            valid = [one for one in valid if not one.endswith("1")] if number == "one" else []
            chosen = [one for one in texts if one]
            assert set(chosen) <= set(valid) and len(set(chosen)) == len(chosen) == min(3, len(valid))
            near = {expected_pixels(folder, KEYS[(i + step) % 9]) for step in (1, 2, 4)} if i % 3 else set()
            assert {one for one in images if one} <= near and sum(one is not None for one in images) == (2 if near else 0)
            some_texts, some_images = some_texts + len(chosen), some_images + bool(near)
    assert some_texts > 20 and some_images > 20


def test_columns_of_types(folder: Path) -> None:
    (found,) = batches(folder, range(4), negatives={"texts": 2, "text_types": ["verb", "noun"]})
    columns = [texts for batch in found for *_, texts, _ in said(batch)]
    for verb, noun in columns:
        assert (verb is None or " verb " in verb) and (noun is None or " noun " in noun)
    assert {(verb is None, noun is None) for verb, noun in columns} == {(True, True), (True, False), (False, False)}


@pytest.mark.parametrize("augment", ["none", "random_resized_crop"])
@pytest.mark.parametrize("image_pairs", [False, True])
def test_workers_and_threads_change_nothing(folder: Path, augment: str, image_pairs: bool) -> None:
    negatives = {**NEGATIVES, "image_pairs": image_pairs}
    steps = (0, 2, 5, 1)
    (one,) = batches(folder, steps, negatives=negatives, augment=augment, threads=1)
    (many,) = batches(folder, steps, negatives=negatives, augment=augment, threads=7, cache_bytes=1 << 20)
    for ours, theirs in zip(one, many, strict=True):
        assert ours.texts == theirs.texts
        for name in ("images", "text_index", "image_index", "samples", "sources"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for world in (2, 3):
        parts = batches(folder, steps, negatives=negatives, augment=augment, ranks=[(rank, world) for rank in range(world)])
        for number, whole in enumerate(one):
            assert {part[number].size for part in parts} == {whole.size // world}
            assert [row for part in parts for row in said(part[number])] == said(whole)


def test_prefetch_gives_the_same_in_order_and_reads_ahead(folder: Path) -> None:
    sources, config = sources_of(folder, **NEGATIVES)
    with Reader(sources, order_of(sources, 6), PREPROCESS, config, seed=3) as reader:
        straight = [reader.batch(step) for step in range(2, 9)]
        ahead = list(reader.prefetch(2, 9, ahead=3))
        assert [said(batch) for batch in ahead] == [said(batch) for batch in straight]
        asked = []
        whole, reader.batch = reader.batch, lambda step: (asked.append(step), whole(step))[1]  # type: ignore[method-assign]
        some = reader.prefetch(0, 100, ahead=2)
        next(some), next(some)
        some.close()
        assert max(asked) <= 3  # one in hand, two waiting
        assert list(reader.prefetch(4, 4)) == []


def test_threads_end_with_the_reader(folder: Path) -> None:
    before = threading.active_count()
    sources, config = sources_of(folder)
    with Reader(sources, order_of(sources, 6), PREPROCESS, config, threads=4) as reader:
        next(reader.prefetch(0, 50))
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_give_the_same_as_plain_files(folder: Path, kind: str) -> None:
    (plain,) = batches(folder, range(1), batch=13)
    build_shards(FolderSource(open_storage(str(folder / "images"))), str(folder / "packed"), kind, shard_bytes=9000)
    section = json.loads((folder / "section.json").read_text())
    (folder / "section.json").write_text(json.dumps({**section, "images": str(folder / "packed")}))
    sources, _ = sources_of(folder)
    assert 1 < len(set(sources[0].shards.tolist())) < 9
    (packed,) = batches(folder, range(1), batch=13)
    assert sorted(said(packed[0])) == sorted(said(plain[0]))  # the whole epoch; the order is by shards


def test_hard_images_join_with_their_own_captions(folder: Path) -> None:
    (found,) = batches(folder, range(12), negatives={"texts": 1, "images": 0, "image_pairs": True})
    (plain,) = batches(folder, range(12))
    seen = {}
    for batch, anchors in zip(found, plain, strict=True):
        assert batch.size == 12 and batch.image_index.shape == (12, 0)
        rows = said(batch)
        assert [row[:3] for row in rows[::2]] == [row[:3] for row in said(anchors)]
        for (_, one, *_), (_, other, picture, texts, _) in zip(rows[::2], rows[1::2], strict=True):
            i, partner = KEYS.index(one.split(" ")[0]), other.split(" ")[0]
            assert picture == expected_pixels(folder, partner)
            assert partner in ({KEYS[(i + step) % 9] for step in (1, 2, 4)} if i % 3 else set(KEYS) - {KEYS[i]})
            assert texts[0] is None or texts[0].startswith(partner)  # its own negatives
            seen.setdefault(i, set()).add(partner)
    assert all(len(partners) > 1 for partners in seen.values())  # another one at another time


def test_choices_change_from_epoch_to_epoch(folder: Path) -> None:
    (found,) = batches(folder, range(6), batch=13, negatives={"texts": 1, "images": 1})
    by_sample = [{row[0]: row[3:] for row in said(batch)} for batch in found]
    differing = [sum(one[sample] != other[sample] for sample in one) for one, other in itertools.combinations(by_sample, 2)]
    assert min(differing) >= 2
    (other,) = batches(folder, range(6), batch=13, negatives={"texts": 2, "images": 1})
    columns = [{row[0]: (row[3][:1], row[4]) for row in said(batch)} for batch in other]
    assert columns == by_sample  # a further column leaves the others as they are


# --- damage ------------------------------------------------------------------------------------------------------------


def damage(folder: Path, *keys: str) -> None:
    for key in keys:
        path = folder / "images" / f"{key}.png"
        path.write_bytes(path.read_bytes()[:100])


def test_a_damaged_image_is_named(folder: Path) -> None:
    damage(folder, "k4")
    with pytest.raises(DataError, match=r"image 'k4' cannot be decoded .*images/k4.png\].*max_corrupt_fraction") as caught:
        batches(folder, range(3))
    assert "\n" not in str(caught.value)


def replaced(folder: Path, steps: int, batch: int, world: int, **options) -> tuple[list[list[tuple]], list[set]]:
    """Return what each step's anchors bring over all ranks, and the damaged images after each step."""
    sources, config = sources_of(folder, **options)
    rows, met = [[] for _ in range(steps)], [set() for _ in range(steps)]
    for rank in range(world):
        order = order_of(sources, batch)
        with Reader(sources, order, PREPROCESS, config, seed=3, rank=rank, world=world, tolerant=True) as reader:
            for step, part in enumerate(reader.prefetch(0, steps)):
                rows[step] += said(part)
            for step in range(steps):
                met[step] |= {(image.name, image.key, image.shard) for image in reader.damaged(step + 1)}
    return rows, met


@pytest.mark.parametrize("bad", [("k4",), ("k4", "k5"), ("k0", "k1", "k2")])
@pytest.mark.parametrize("batch", [2, 4, 6])
def test_damaged_pairs_give_their_places_to_pairs_outside_the_batch(folder: Path, bad: tuple[str, ...], batch: int) -> None:
    (healthy,) = batches(folder, range(13), batch=batch)
    damage(folder, *bad)
    pairs = sources_of(folder)[0][0].pairs.to_pylist()
    lost = {number for number, pair in enumerate(pairs) if pair["image"] in bad}
    one, met = replaced(folder, 13, batch, world=1)
    count = 0
    for ours, theirs in zip(one, healthy, strict=True):
        before = theirs.samples.tolist()
        now = [row[0] for row in ours]
        fresh = [number for number, old in zip(now, before, strict=True) if old in lost]
        assert not set(fresh) & (lost | set(before)) and len(set(fresh)) == len(fresh)
        assert [number for number, old in zip(now, before, strict=True) if old not in lost] == [old for old in before if old not in lost]
        for number, text, picture, *_ in ours:
            assert text == pairs[number]["text"] and picture == expected_pixels(folder, pairs[number]["image"])
        count += len(fresh)
    assert count >= 2
    for world in {2, batch}:
        assert replaced(folder, 13, batch, world=world) == (one, met)
    assert met[-1] == {("file", key, f"{key}.png") for key in bad}  # all are met within 13 steps


def test_what_was_read_ahead_does_not_count_yet(folder: Path) -> None:
    damage(folder, "k0", "k4", "k5")
    sources, config = sources_of(folder)
    with Reader(sources, order_of(sources, 2), PREPROCESS, config, seed=3, tolerant=True) as reader:
        list(reader.prefetch(0, 7))
        counts = []
        for steps in range(8):
            with Reader(sources, order_of(sources, 2), PREPROCESS, config, seed=3, tolerant=True) as fresh:
                for step in range(steps):
                    fresh.batch(step)
                assert reader.damaged(steps) == fresh.damaged(100)
            counts.append(len(reader.damaged(steps)))
    assert counts[:2] == [0, 0] and counts[-1] == 3


def test_damaged_partners_and_negatives(folder: Path) -> None:
    negatives = {"texts": 1, "images": 2, "image_pairs": True}
    (healthy,) = batches(folder, range(6), negatives=negatives)
    damage(folder, "k4", "k5")
    one, met = replaced(folder, 6, 6, world=1, **negatives)
    for world in (2, 3):
        assert replaced(folder, 6, 6, world=world, **negatives) == (one, met)
    (late,) = batches(folder, (5, 4), negatives=negatives, tolerant=True, threads=3)
    assert [said(batch) for batch in late] == [one[5], one[4]]  # whatever was met before
    pairs = sources_of(folder)[0][0].pairs.to_pylist()
    masked = 0
    for ours, theirs in zip(one, healthy, strict=True):
        for anchor, partner in zip(ours[::2], ours[1::2], strict=True):
            keys = [pairs[row[0]]["image"] for row in (anchor, partner)]
            assert keys[0] != keys[1] and not set(keys) & {"k4", "k5"}
        for (sample, _, _, _, images), before in zip(ours[::2], said(theirs)[::2], strict=True):
            if sample == before[0]:  # a damaged negative leaves its column empty, the other one stays
                assert all(now in (None, then) for now, then in zip(images, before[4], strict=True))
                masked += sum(now is None and then is not None for now, then in zip(images, before[4], strict=True))
    assert masked > 0


@pytest.mark.parametrize("world", [1, 2, 6])
def test_a_batch_that_cannot_be_filled_is_refused(folder: Path, world: int) -> None:
    damage(folder, *KEYS[2:])  # three pairs are left
    with pytest.raises(
        DataError, match=r"3 of the 6 pairs of a batch have damaged images, and no other pair is left.*\[file\].*batch_size"
    ):
        replaced(folder, 1, 6, world)


def test_storage_errors_come_as_they_are(folder: Path) -> None:
    sources, config = sources_of(folder)
    content = (folder / "images" / "k2.png").read_bytes()
    (folder / "images" / "k2.png").unlink()
    with Reader(sources, order_of(sources, 13), PREPROCESS, config, tolerant=True) as reader:
        with pytest.raises(NotFound, match="k2.png"):
            reader.batch(0)
        with pytest.raises(NotFound, match="k2.png"):
            list(reader.prefetch(0, 3))
    (folder / "images" / "k2.png").write_bytes(content[:-1] + b"?")
    with (
        Reader(sources, order_of(sources, 13), PREPROCESS, config, tolerant=True) as reader,
        pytest.raises(DataError, match="image 'k2' is not the one that was indexed"),
    ):
        reader.batch(0)


def test_batches_that_do_not_divide_are_refused(folder: Path) -> None:
    sources, config = sources_of(folder)
    with pytest.raises(ConfigError, match="6 samples does not divide by 4 workers"):
        Reader(sources, order_of(sources, 6), PREPROCESS, config, world=4)


# --- decoding and crops ------------------------------------------------------------------------------------------------


def test_cached_pictures_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    whole = Preprocess.__call__
    monkeypatch.setattr(Preprocess, "__call__", lambda self, image: (decoded.append(1), whole(self, image))[1])
    batches(folder, range(4), batch=13, cache_bytes=9 * SIZE * SIZE * 3)
    assert len(decoded) == 9
    decoded.clear()
    batches(folder, range(4), batch=13, cache_bytes=5 * SIZE * SIZE * 3)
    assert len(decoded) == 9 + 3 * 4
    decoded.clear()
    batches(folder, range(4), batch=13)
    assert len(decoded) == 9 * 4  # two captions of one image in a batch share it


def test_crops_depend_on_epoch_and_sample_only(folder: Path) -> None:
    (found,) = batches(folder, range(3), batch=13, augment="random_resized_crop", negatives={"images": 1})
    by_sample = [{row[0]: row[2] for row in said(batch)} for batch in found]
    assert sum(by_sample[0][sample] != by_sample[1][sample] for sample in range(13)) >= 8  # small pictures have few windows
    pairs = sources_of(folder)[0][0].pairs.to_pylist()
    twice = [i for i in range(13) if i and pairs[i]["image"] == pairs[i - 1]["image"]]
    assert any(by_sample[0][i] != by_sample[0][i - 1] for i in twice)  # each caption's picture has a window of its own


def test_photographs_from_shards(data_root: Path, tmp_path: Path) -> None:
    root = data_root / "flickr8k"
    pairs = {"name": "retrieval", "dataset": "flickr8k", "split": "val", "root": str(root)}
    sources = load_sources(train_job([{"pairs": pairs}]), str(tmp_path / "cache"))
    captions = {}
    for line in (root / "captions.jsonl").read_text().splitlines():
        row = json.loads(line)
        captions[row["image"].rpartition(".")[0]] = row["captions"]
    preprocess = Preprocess((64, 64))
    config = train_job([{"pairs": pairs}]).negatives
    keys = sources[0].pairs["image"].to_pylist()
    with Reader(sources, order_of(sources, 48), preprocess, config, threads=2) as reader:
        for batch in reader.prefetch(0, 3):
            assert len(set(batch.samples.tolist())) == 48
            for sample, text, pixels in zip(batch.samples, batch.texts, batch.images, strict=True):
                key = keys[sample]
                assert text in captions[key]
                data = (root / f"{key}.jpg").read_bytes()
                assert np.array_equal(pixels, preprocess(Image.open(io.BytesIO(data)).convert("RGB")))
