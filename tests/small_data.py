"""Small benchmarks in their official layouts, made of random pictures, for tests of the flow (not of any model's skill)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SPEC_SIZES = {"existence": 2, "relative_size": 3, "count": 9}


def write_picture(path: Path, seed: int, size: tuple[int, int] = (80, 64)) -> None:
    """Save a noisy picture whose content depends only on `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def write_spec(root: Path, cases: int = 3, subsets=tuple(SPEC_SIZES), seed: int = 0) -> Path:
    """Write SPEC's layout: per case K pictures x K texts, each one a query once."""
    for number, subset in enumerate(subsets):
        count = SPEC_SIZES[subset]
        i2t, t2i = [], []
        for case in range(cases):
            pictures = [f"images/{case:03d}_{k}.jpg" for k in range(count)]
            for k, picture in enumerate(pictures):
                write_picture(root / subset / picture, seed * 1_000_000 + number * 10_000 + case * 100 + k)
            texts = [f"{subset} of case {case}, variant {k}" for k in range(count)]
            i2t += [{"query": pictures[k], "keys": texts, "label": k} for k in range(count)]
            t2i += [{"query": texts[k], "keys": pictures, "label": k} for k in range(count)]
        (root / subset / "image2text.json").write_text(json.dumps(i2t))
        (root / subset / "text2image.json").write_text(json.dumps(t2i))
    return root


def spec_items(cases: int = 3, subsets=tuple(SPEC_SIZES)) -> int:
    """Return how many distinct images that is; there are as many distinct texts."""
    return sum(SPEC_SIZES[subset] for subset in subsets) * cases
