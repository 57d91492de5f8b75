"""Draws generated text negatives to be judged: `python -m tests.verdicts.draw_texts OUT.csv FAMILY=RUN … > texts.txt`.

RUN is the folder of a text_negatives run on Flickr8k (or its negatives.parquet), FAMILY the generator whose negatives are drawn
from it, with `_refined` behind it for a refined run. Writes 50 negatives of every family to the CSV with empty verdicts, or with
those that the CSV already held of the same edits, and prints their texts in the same order. The CSV names captions (NAME#INDEX:
photograph, place in its list), it never quotes them.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fgray.data.negatives import read_negatives
from tests.verdicts.draw_mined import caption_names

COLUMNS = ("family", "caption", "type", "start", "edit", "verdict", "note")
KEY = COLUMNS[:5]
COUNT = 50
SEED = 1  # the draw with seed 0 was read first, and rules were mended after it
REFINED = "_refined"


class Drawn(NamedTuple):
    """A negative to judge: the kind of edit, the caption, the edited caption, where the edit stands in it, the edit in a few words."""

    type: str
    anchor: str
    ref: str
    start: int
    end: int
    edit: str


def order(one: Drawn, generator: str, seed: int) -> bytes:
    """Return where a negative stands in the draw: a hash of what it is, so that the order of the file does not matter."""
    return hashlib.sha256("\n".join((str(seed), generator, one.type, one.anchor, one.ref)).encode()).digest()


def draw(rows: Iterable[Mapping[str, Any]], generator: str, count: int = COUNT, seed: int = SEED) -> list[Drawn]:
    """Return up to ``count`` of a generator's valid negatives by type, its types taken in turn so that rare ones are seen too."""
    queues: dict[str, list[Drawn]] = {}
    for row in rows:
        for negative in row["negatives"]:
            if negative["source"].split(" ")[0] == generator and negative["valid"]:
                place = negative["start"] or 0, negative["end"] or 0
                one = Drawn(negative["type"], row["anchor"], negative["ref"], *place, negative["reason"])
                queues.setdefault(one.type, []).append(one)
    turns = []
    for number, (_, queue) in enumerate(sorted(queues.items())):
        turns += [(turn, number, one) for turn, one in enumerate(sorted(queue, key=lambda one: order(one, generator, seed))[:count])]
    chosen = sorted(turns, key=lambda entry: entry[:2])[:count]
    return [one for _, _, one in sorted(chosen, key=lambda entry: (entry[1], entry[0]))]


def names_of(anchors: set[str], captions: Path) -> dict[str, str]:
    """Return caption -> NAME#INDEX from the split that holds all these captions."""
    for split in ("train", "test"):
        names = caption_names(captions, split)
        if anchors <= set(names):
            return names
    raise SystemExit("the run's captions are not those of one split of Flickr8k")


def given(path: Path) -> dict[tuple[str, ...], tuple[str, str]]:
    """Return the verdicts and notes that a file holds already."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[name] for name in KEY): (row["verdict"], row["note"]) for row in csv.DictReader(file)}


def main() -> None:
    data = Path(os.environ.get("FGRAY_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    out, said, lines = Path(sys.argv[1]), given(Path(sys.argv[1])), []
    for argument in sys.argv[2:]:
        family, _, run = argument.partition("=")
        rows = [row for row in read_negatives(run)[0].to_pylist() if row["direction"] == "text_edit"]
        names = names_of({row["anchor"] for row in rows}, data / "flickr8k" / "captions.jsonl")
        for one in draw(rows, family.removesuffix(REFINED)):
            key = (family, names[one.anchor], one.type, str(one.start), one.edit)
            lines.append((*key, *said.get(key, ("", ""))))
            print(f"{len(lines)} {family} {one.type}\n  + {one.anchor}")
            print(f"  - {one.ref[: one.start]}[{one.ref[one.start : one.end]}]{one.ref[one.end :]}")
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)


if __name__ == "__main__":
    main()
