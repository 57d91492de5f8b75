"""Ordinary pictures: one or two objects of a bank on a background, with a caption that names them and nothing else.

Folder: ``images/NUMBER.jpg`` and ``pictures.json``, what each shows. The bytes are a function of the bank, the number of pictures, the
seed and the versions of Pillow and NumPy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fgray.storage import Storage
from fgray.synthesis.bank import CutOut, ObjectBank
from fgray.synthesis.compose import encode, on_legible_background, pair_up
from fgray.synthesis.folder import kept_folder, write_files
from fgray.synthesis.layout import AREA, GAP, MARGIN, Case, Paste

PICTURES_VERSION = 1  # raise it with every change that alters a byte of what is written
PICTURES_FILE = "pictures.json"  # written last
TEMPLATES = ("{}", "a drawing of {}", "a picture of {}", "an image that shows {}", "this drawing shows {}", "{}, drawn")


def caption(template: str, categories: Sequence[str]) -> str:
    """Return a template of `TEMPLATES` filled with the categories, in their order."""
    return template.format(" and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in categories))


def pictures_folder(cache: str, bank: ObjectBank, images: int, seed: int) -> Storage:
    """Return the folder of ordinary pictures below `cache`, drawing them first where it is not there.

    Raises:
        StorageError: `cache` cannot be written, or the disk is full.
    """
    parts = {"bank": bank.digest, "pictures": PICTURES_VERSION, "images": images, "seed": seed}
    name = f"drawn-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
    return kept_folder(cache, name, PICTURES_FILE, lambda folder: write_files(folder, draw_pictures(bank, images, seed)))


def draw_pictures(bank: ObjectBank, images: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of every file, ``pictures.json`` last.

    Every other picture shows one object, the categories in turn; the others show two, which are joined to pairs once per seed, so that
    pictures of different pairs share no object.

    Args:
        bank: where objects and backgrounds come from.
        images: number of pictures.
        seed: another seed gives other pairs, backgrounds, places and captions.
    """
    rng = np.random.default_rng(seed)
    pairs = pair_up(bank.cut_outs, rng, bank.may_meet)
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    alone = {category: list(rng.permutation(len(bank.of_category(category)))) for category in bank.categories}
    found = []
    for number in range(images):
        rng = np.random.default_rng([seed, number])
        half = number // 2
        if number % 2:
            a, b = pairs[half % len(pairs)]
            shown = [a, b] if rng.random() < 0.5 else [b, a]
        else:
            category = bank.categories[half % len(alone)]
            members = bank.of_category(category)
            shown = [members[alone[category][half // len(alone) % len(members)]]]
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        text = caption(template, [one.category for one in shown])
        case = Case((text,), (scene(bank.ranges(rng), shown),)).shrunk(bank.shrink)
        background, _, (picture,) = on_legible_background(rng, bank, case, shown[0], shown[-1])
        path = f"images/{number:05d}.jpg"
        yield path, encode(picture, bank.jpeg_quality)
        objects = [{"cut_out": paste.cut_out.file, "category": paste.cut_out.category, "box": list(paste.box)} for paste in case.scenes[0]]
        found.append({"path": path, "caption": text, "template": template, "objects": objects, "background": background.file})
    content: dict[str, Any] = {"version": PICTURES_VERSION, "bank": bank.digest, "seed": seed, "pictures": found}
    yield PICTURES_FILE, json.dumps(content, indent=1).encode() + b"\n"


def scene(rng: np.random.Generator, shown: Sequence[CutOut]) -> tuple[Paste, ...]:
    """Put one or two objects anywhere on the layout's canvas, apart from each other: one is 120 to 330 px long, two are 100 to 180 px."""
    low, high = (120, 331) if len(shown) == 1 else (100, 181)
    while True:
        sizes = [int(rng.integers(low, high)) for _ in shown]
        places = [MARGIN + size / 2 + rng.uniform(0, AREA - size, size=2) for size in sizes]
        pastes = tuple(Paste(one, float(x), float(y), size) for one, (x, y), size in zip(shown, places, sizes, strict=True))
        if len(pastes) == 1 or _apart(*pastes):
            return pastes


def _apart(a: Paste, b: Paste) -> bool:
    least = (a.longest + b.longest) / 2 + GAP
    return abs(a.x - b.x) >= least or abs(a.y - b.y) >= least
