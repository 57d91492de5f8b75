"""Draws mined negatives to be judged by eye: `python -m tests.verdicts.draw_mined RUN [CAPTIONS] > drawn.csv`.

RUN is the folder of a mining run on a folder of captioned photographs (or its negatives.parquet); CAPTIONS is that folder's
captions.jsonl, by default Flickr8k's in the test data. Prints 50 negatives of every direction as CSV with empty verdicts. The CSV
holds identifiers, never captions: the name of an image without its extension, or NAME#INDEX for a caption, its place in the list
of that image (of the first one with that caption, where several have it).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fgray.data.negatives import DIRECTIONS, read_negatives

COLUMNS = ("family", "anchor", "negative", "rank", "score", "verdict", "note")
COUNT = 50
SEED = 0


class Drawn(NamedTuple):
    """One negative of one anchor as they stand in the file of negatives; ``positive`` is empty where the anchor has none."""

    direction: str
    anchor: str
    positive: str
    negative: str
    rank: int
    score: float


def order(item: Drawn, seed: int) -> bytes:
    """Return where an item stands in the draw: a hash of what it is, so that the order of the file does not matter."""
    return hashlib.sha256(json.dumps([seed, *item[:4]]).encode()).digest()


def draw(rows: list[dict[str, Any]], direction: str, count: int = COUNT, seed: int = SEED) -> list[Drawn]:
    """Return the first ``count`` negatives of a direction in the order of their hashes, one per anchor."""
    items = (
        Drawn(direction, row["anchor"], row["positive"] or "", negative["ref"], negative["rank"], negative["score"])
        for row in rows
        if row["direction"] == direction
        for negative in row["negatives"]
    )
    chosen: dict[str, Drawn] = {}
    for item in sorted(items, key=lambda item: order(item, seed)):
        chosen.setdefault(item.anchor, item)
        if len(chosen) == count:
            break
    return list(chosen.values())


def caption_names(path: Path, split: str = "train") -> dict[str, str]:
    """Return caption -> NAME#INDEX, the first one in the file, for the captions of a split."""
    names: dict[str, str] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if entry["split"] == split:
            for index, caption in enumerate(entry["captions"]):
                names.setdefault(caption, f"{Path(entry['image']).stem}#{index}")
    return names


def drawn_rows(run: str, captions: Path) -> Iterator[tuple[str, str, str, int, str, str, str]]:
    """Yield the rows of the CSV, all directions of the run in turn."""
    rows = read_negatives(run)[0].to_pylist()
    names = caption_names(captions)
    for direction in sorted({row["direction"] for row in rows}):
        kinds = DIRECTIONS[direction]
        for item in draw(rows, direction):
            anchor, negative = (
                names[ref] if kind == "text" else ref.rpartition("/")[2]
                for kind, ref in zip(kinds, (item.anchor, item.negative), strict=True)
            )
            yield direction, anchor, negative, item.rank, f"{item.score:.4f}", "", ""


def main() -> None:
    data = Path(os.environ.get("FGRAY_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    captions = Path(sys.argv[2]) if len(sys.argv) > 2 else data / "flickr8k" / "captions.jsonl"
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(drawn_rows(sys.argv[1], captions))


if __name__ == "__main__":
    main()
