"""Composes SPEC-style cases: pastes cut-outs on backgrounds and writes SPEC's own layout.

Folder: ``SUBSET/image2text.json`` and ``SUBSET/text2image.json`` (lists of ``{"query", "keys", "label"}``, image paths relative to the
subset's folder), ``SUBSET/images/CASE-n.jpg``; beside them ``backgrounds/SUBSET/CASE.jpg``, the same canvas before anything was pasted,
and ``meta.json``, what stands where. The bytes are a function of the options, the bank and the versions of Pillow and NumPy.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fgray.synthesis.bank import Background, CutOut, ObjectBank, alpha_of
from fgray.synthesis.layout import CANVAS, LAYOUTS, Case, Paste, countable

COMPOSER_VERSION = 1  # raise it with every change that alters a byte of what is written, the oracle's answers included
CONTRAST = 28  # grey levels by which a pixel of an object differs visibly from the background
META_FILE = "meta.json"


def compose(bank: ObjectBank, subsets: Sequence[str], cases: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of every file of a composed benchmark, ``meta.json`` last.

    Cut-outs are joined to pairs once per seed and every subset goes round the same pairs, so that cases of different pairs share no
    cut-out: pairs are the independent units of the statistics.

    Args:
        bank: where objects and backgrounds come from.
        subsets: names of `LAYOUTS`.
        cases: cases per subset; a case has K images and K texts.
        seed: another seed gives other pairs, backgrounds and places.
    """
    pairs = pair_up(bank.cut_outs, np.random.default_rng(seed), bank.may_meet)
    meta = []
    for subset in subsets:
        rows: dict[str, list[dict[str, Any]]] = {"image2text": [], "text2image": []}
        subset_key = int.from_bytes(subset.encode(), "little")
        for number in range(cases):
            rng = np.random.default_rng([seed, subset_key, number])
            a, b = choose_objects(pairs, number, subset)
            case = LAYOUTS[subset](bank.ranges(rng), a, b).shrunk(bank.shrink)
            background, plain, pictures = on_legible_background(rng, bank, case, a, b)
            yield f"backgrounds/{subset}/{number:04d}.jpg", encode(plain, bank.jpeg_quality)
            # One shuffle per case, so every position is the right one equally often and ties gain nothing.
            text_order, image_order = (rng.permutation(len(case.texts)).tolist() for _ in range(2))
            texts = [case.texts[i] for i in text_order]
            names = [f"images/{number:04d}-{place}.jpg" for place in range(len(pictures))]
            for name, i in zip(names, image_order, strict=True):
                yield f"{subset}/{name}", encode(pictures[i], bank.jpeg_quality)
                rows["image2text"].append({"query": name, "keys": texts, "label": texts.index(case.texts[i])})
            for text in texts:
                rows["text2image"].append({"query": text, "keys": names, "label": image_order.index(case.texts.index(text))})
            meta.append(_describe(subset, number, case, background, a, b, names, image_order))
        for task, content in rows.items():
            yield f"{subset}/{task}.json", _json(content)
    yield META_FILE, _json({"composer": COMPOSER_VERSION, "bank": bank.digest, "seed": seed, "cases": meta})


def pair_up(
    cut_outs: Sequence[CutOut], rng: np.random.Generator, may_meet: Callable[[CutOut, CutOut], bool]
) -> list[tuple[CutOut, CutOut]]:
    """Join cut-outs to pairs that may meet and, as chance allows, are of similar slenderness, so that equal-sized looks equal.

    With an odd number one is left out.
    """
    blurred = [cut_out.slenderness + rng.uniform(0, 0.25) for cut_out in cut_outs]
    order = [cut_outs[i] for i in np.argsort(blurred, kind="stable")]
    for i in range(0, len(order) - 1, 2):
        if not may_meet(order[i], order[i + 1]):
            j = next(j for j in range(len(order)) if j // 2 != i // 2 and _may_swap(order, i + 1, j, may_meet))
            order[i + 1], order[j] = order[j], order[i + 1]
    return list(zip(order[::2], order[1::2], strict=False))


def _may_swap(order: list[CutOut], i: int, j: int, may_meet: Callable[[CutOut, CutOut], bool]) -> bool:
    """Whether, after swapping i and j, both may meet their new mates."""
    mates = (order[i ^ 1], order[j ^ 1]) if j ^ 1 < len(order) else (order[i ^ 1], None)
    return may_meet(order[j], mates[0]) and (mates[1] is None or may_meet(order[i], mates[1]))


def choose_objects(pairs: Sequence[tuple[CutOut, CutOut]], number: int, subset: str) -> tuple[CutOut, CutOut]:
    """Return the named object and the other one of a subset's case: round the pairs, then the roles change."""
    if subset == "count":
        pairs = [pair for pair in pairs if any(countable(one) for one in pair)]
    a, b = pairs[number % len(pairs)]
    if (number // len(pairs)) % 2:
        a, b = b, a
    return (b, a) if subset == "count" and not countable(a) else (a, b)


def on_legible_background(
    rng: np.random.Generator, bank: ObjectBank, case: Case, a: CutOut, b: CutOut
) -> tuple[Background, Image.Image, list[Image.Image]]:
    """Return a background on which every object stands out, the empty canvas, and the composed pictures.

    Backgrounds that show a category of the case are never taken; among the others the first legible one of a random order is, or else
    the most legible.
    """
    allowed = [one for one in bank.backgrounds if not {a.category, b.category} & one.visible]
    distinct = {id(paste): paste for scene in case.scenes for paste in scene}.values()
    best: tuple[float, Background, Image.Image] | None = None
    for i in rng.permutation(len(allowed)):
        plain = canvas(bank.image(allowed[i]), rng, CANVAS // bank.shrink)
        share = min(_standing_out(plain, bank, paste) for paste in distinct)
        if best is None or share > best[0]:
            best = (share, allowed[i], plain)
        if share >= bank.legible:
            break
    assert best is not None, "the bank has no background for this case"
    _, background, plain = best
    return background, plain, [paste_all(plain, bank, scene) for scene in case.scenes]


def canvas(photo: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    """Return a random square crop (80 to 100 % of the side) of a square picture, scaled to `size` px."""
    side = int(photo.width * rng.uniform(0.8, 1.0))
    left, top = (int(value) for value in rng.integers(0, photo.width - side + 1, size=2))
    return photo.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def paste_all(plain: Image.Image, bank: ObjectBank, pastes: Sequence[Paste]) -> Image.Image:
    """Return a copy of the canvas with the objects pasted in order."""
    picture = plain.convert("RGBA")
    for paste in pastes:
        picture.alpha_composite(bank.scaled(paste.cut_out, paste.longest), dest=paste.box[:2])
    return picture.convert("RGB")


def _standing_out(plain: Image.Image, bank: ObjectBank, paste: Paste) -> float:
    """Return the share of an object's pixels that differ by `CONTRAST` from what they cover."""
    left, top, width, height = paste.box
    cut_out = bank.scaled(paste.cut_out, paste.longest)
    under = np.asarray(plain.crop((left, top, left + width, top + height)), dtype=np.int16)
    difference = np.abs(np.asarray(cut_out.convert("RGB"), dtype=np.int16) - under).max(axis=2)
    return float((difference > CONTRAST)[alpha_of(cut_out) > 0.5].mean())


def encode(image: Image.Image, quality: int) -> bytes:
    """Return a JPEG without chroma subsampling (coloured edges stay where they are)."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _describe(
    subset: str, number: int, case: Case, background: Background, a: CutOut, b: CutOut, names: Sequence[str], image_order: Sequence[int]
) -> dict[str, Any]:
    pasted = {paste.cut_out.file for scene in case.scenes for paste in scene}
    return {
        "subset": subset,
        "case": number,
        "category": a.category,
        "other": b.category if b.file in pasted else None,
        "cut_outs": sorted(pasted),
        "background": background.file,
        "images": [
            {
                "path": f"{subset}/{name}",
                "text": case.texts[i],
                "objects": [
                    {"cut_out": paste.cut_out.file, "category": paste.cut_out.category, "box": list(paste.box)} for paste in case.scenes[i]
                ],
            }
            for name, i in zip(names, image_order, strict=True)
        ],
    }


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"
