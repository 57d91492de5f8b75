"""Training data on real S3 servers: pairs, negatives and shards give the batches that local ones give."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fgray.data.shards import build_shards
from fgray.models.preprocess import Preprocess
from fgray.storage import open_storage
from fgray.training.batch import Batch
from fgray.training.order import Order
from fgray.training.reader import Reader
from fgray.training.sources import load_sources
from tests.training.small_sources import train_job, write_negatives, write_pairs

KEYS = [f"k{i}" for i in range(12)]


def batches(root: str, cache: str, threads: int) -> list[Batch]:
    pairs = {"name": "file", "root": f"{root}/pairs.parquet", "images": f"{root}/packed"}
    wanted = {"texts": 1, "images": 1}
    job = train_job([{"pairs": pairs, "negatives": [f"{root}/run"]}], negatives=wanted)
    sources = load_sources(job, cache)
    order = Order([len(one) for one in sources], [one.share for one in sources], 8, 0, [one.shards for one in sources])
    with Reader(sources, order, Preprocess((24, 24)), job.negatives, threads=threads) as reader:
        return list(reader.prefetch(0, 4))


def test_batches_from_s3_equal_local_ones(s3_bucket: str, tmp_path: Path) -> None:
    write_pairs(tmp_path, {key: [f"{key} one", f"{key} two"] for key in KEYS})
    rows = [("text_edit", f"{key} one", None, [(f"not {key}", "x", True)]) for key in KEYS]
    rows += [("image_to_image", key, None, [(KEYS[i - 1], "mined", True), (KEYS[i - 3], "mined", True)]) for i, key in enumerate(KEYS)]
    (tmp_path / "run").mkdir()
    write_negatives(tmp_path / "run" / "negatives.parquet", rows)
    build_shards(str(tmp_path / "images"), str(tmp_path / "packed"), shard_bytes=9000)
    local, remote = open_storage(str(tmp_path)), open_storage(s3_bucket)
    names = ["pairs.parquet", "run/negatives.parquet", *(info.path for info in local.list("packed"))]
    for name in names:
        remote.write_bytes(name, local.read_bytes(name))
    ours, theirs = batches(s3_bucket, f"{s3_bucket}/cache", 5), batches(str(tmp_path), str(tmp_path / "cache"), 1)
    for one, other in zip(ours, theirs, strict=True):
        assert one.texts == other.texts
        for name in ("images", "text_index", "image_index", "samples"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert sum((one.image_index >= 0).sum() for one in ours) == 32
