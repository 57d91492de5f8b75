"""Small sources for tests: pictures in a folder, pairs and negatives as they stand in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fgray.config.train import TrainClipJob
from fgray.data.negatives import DIRECTIONS, NEGATIVE_SCHEMA, to_parquet
from tests.small_data import write_picture


def write_pairs(folder: Path, captions: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Write a picture per key and pairs.parquet; return the section that names them."""
    for number, key in enumerate(captions):
        write_picture(folder / "images" / f"{key}.png", number, (40, 32))
    rows = [(key, caption) for key, texts in captions.items() for caption in texts]
    table = pa.table({"image": [row[0] for row in rows], "text": [row[1] for row in rows]})
    pq.write_table(table, folder / "pairs.parquet")
    return {"name": "file", "root": str(folder / "pairs.parquet"), "images": str(folder / "images")}


def write_negatives(path: Path, rows: Sequence[tuple[str, str, str | None, Sequence[tuple[str, str, bool]]]]) -> str:
    """Write a negatives file of (direction, anchor, positive, [(ref, type, valid)])."""
    lines = []
    for direction, anchor, positive, negatives in rows:
        kinds = DIRECTIONS[direction]
        blank = dict.fromkeys(("score", "margin", "rank", "start", "end", "original", "plausibility"))
        lines.append(
            {
                "direction": direction,
                "anchor_kind": kinds[0],
                "anchor": anchor,
                "positive_kind": None if positive is None else kinds[1],
                "positive": positive,
                "positive_score": None,
                "negative_kind": kinds[1],
                "negatives": [{**blank, "ref": r, "type": t, "valid": v, "source": "test", "reason": "test"} for r, t, v in negatives],
            }
        )
    path.write_bytes(to_parquet(pa.Table.from_pylist(lines, schema=NEGATIVE_SCHEMA), {}))
    return str(path)


def train_job(sources: Sequence[Mapping[str, Any]], **parts: Any) -> TrainClipJob:
    model = {"kind": "open_clip", "arch": "ViT-B-32"}
    values = {"job": "train_clip", "name": "test", "output": "unused", "model": model, "sources": list(sources), "steps": 1, **parts}
    return TrainClipJob.model_validate(values)


def negatives_of(source, kind: str) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Return (image, caption) -> {(negative, type)}."""
    ragged = source.text_negatives if kind == "text" else source.image_negatives
    names = source.texts.to_pylist() if kind == "text" else source.index.keys.to_pylist()
    found = {}
    for number, pair in enumerate(source.pairs.to_pylist()):
        here = range(ragged.offsets[number], ragged.offsets[number + 1])
        found[pair["image"], pair["text"]] = {(names[ragged.items[i]], source.types[ragged.types[i]]) for i in here}
    return found


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
