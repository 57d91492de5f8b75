"""Measures what `near_duplicate_images` catches and what it costs: `python -m tests.mining.measure_near_duplicates [STORE]`.

Copies of 500 Flickr8k train images against their sources, and pairs of different images: the 20 nearest of each of the 2,500 by
the image embedding of `lite0-minilm`, and random pairs. About five minutes on one core; STORE keeps the embeddings.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import sparse

from fgray.config.schema import Lite0MiniLmModel
from fgray.data.index import open_images
from fgray.embedding import Compute
from fgray.mining.candidates import Side
from fgray.mining.image_hash import Shrink, distances, hash_bank
from fgray.mining.resources import Resources
from fgray.models import open_model

COMPUTE = Compute(runner="serial", device="cpu", workers=1, decode_workers=1, batch_size=32, unit_rows=64, threads=1)
THRESHOLDS = (4, 6, 8, 10, 12, 14, 16, 18)
COSINES = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return Image.open(io.BytesIO(sink.getvalue())).convert("RGB")


def crop(image: Image.Image, rng: np.random.Generator, shares: tuple[float, float]) -> Image.Image:
    width, height = (round(side * share) for side, share in zip(image.size, shares, strict=True))
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def rescale(image: Image.Image, factor: float, resampling: int) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), resampling)


def any_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return crop(image, rng, tuple(rng.uniform(0.7, 0.95, 2)))


def square_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(0.7, 0.95)
    return crop(image, rng, (share, share))


def any_scale(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return rescale(image, float(np.exp(rng.uniform(np.log(0.3), np.log(2)))), int(rng.choice([1, 2, 3])))


COPIES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "JPEG quality 30-90": lambda image, rng: jpeg(image, int(rng.integers(30, 91))),
    "rescaled 0.3-2x": any_scale,
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "cropped to 70-95 % of each side": any_crop,
    "cropped, same share of both sides": square_crop,
    "cropped and mirrored": lambda image, rng: ImageOps.mirror(any_crop(image, rng)),
    "cropped, rescaled and JPEG": lambda image, rng: jpeg(any_scale(any_crop(image, rng), rng), int(rng.integers(30, 91))),
}


def open_rgb(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def train_images(data_root: Path) -> list[Path]:
    """Return the paths of Flickr8k's train images, sorted."""
    folder = data_root / "flickr8k"
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    return sorted(folder / row["image"] for row in rows if row["split"] == "train")


def bank_of(images: Iterator[Image.Image] | list[Image.Image]):
    shrink = Shrink()
    return hash_bank(np.stack([shrink(image) for image in images]))


def _row(name: str, values, limits, at_least: bool = False) -> str:
    return f"{name:36s}" + "".join(f"{100 * np.mean(values >= t if at_least else values <= t):8.2f}" for t in limits)


def main(store: str) -> None:
    paths = train_images(Path(os.environ.get("FGRAY_DATA", "../shared/data")))
    keys = [path.stem for path in paths]
    index = open_images(str(paths[0].parent), store)
    nothing = sparse.csr_matrix((len(keys), 0), dtype=bool)
    side = Side("image", keys, nothing, nothing, ((index, keys),))
    source = open_model(Lite0MiniLmModel(kind="lite0-minilm"))
    resources = Resources(source, store, COMPUTE, 10**8)
    hashes, vectors = resources.hashes(side).bank, resources.embeddings(side)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    near = np.argsort(-cosines, axis=1)[:, :20]
    one, other = np.repeat(np.arange(len(keys)), 20), near.ravel()
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, len(keys), (2, 50_000))
    different = left != right
    print("\nshare (%) at a hash distance of or below", " " * 2, *(f"{t:7d}" for t in THRESHOLDS))
    print(_row("lost: 20 nearest of each", distances(hashes[one], hashes[other]), THRESHOLDS))
    print(_row("lost: random pairs", distances(hashes[left[different]], hashes[right[different]]), THRESHOLDS))
    chosen = rng.permutation(len(paths))[:500]
    pictures = [open_rgb(paths[i]) for i in chosen]
    encoder = source.load("cpu")
    likeness = []
    for name, change in COPIES.items():
        copies = [change(picture, rng) for picture in pictures]
        print(_row(f"caught: {name}", distances(bank_of(copies), hashes[chosen]), THRESHOLDS))
        pixels = np.stack([source.preprocess(copy) for copy in copies[:96]])
        embedded = np.concatenate([encoder.embed_images(pixels[at : at + 32]) for at in range(0, 96, 32)])
        likeness.append((name, np.einsum("nd,nd->n", embedded, vectors[chosen[:96]])))
    print("\nshare (%) at a cosine of or above", " " * 2, *(f"{t:7.2f}" for t in COSINES))
    print(_row("lost: 20 nearest of each", cosines[one, other], COSINES, True))
    for name, values in likeness:
        print(_row(f"caught: {name}", values, COSINES, True))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
