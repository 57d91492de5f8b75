"""Writes small benchmarks in their official layouts, and encoders whose scores can be worked out by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fgray.config.schema import EvalJob
from fgray.evaluation import RunResult, evaluate
from fgray.runs import RunFolder

RED, BLUE, PURPLE = (255, 0, 0), (0, 0, 255), (255, 0, 255)
COLOURS = {"red": RED, "blue": BLUE, "purple": PURPLE, "green": (0, 255, 0), "cyan": (0, 255, 255), "white": (255, 255, 255)}
WORDS = ("a", "the", "red", "small", "dog", "cat", "car", "tree", "left", "right", "above", "near", "two", "three", "on", "under", "photo")


class ColourEncoder:
    """An image's embedding is its mean colour, a text's the sum of the colours that it names; purple lies between red and blue."""

    image_size = 8

    def __init__(self, device: str) -> None:
        pass

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        mean = pixels.reshape(len(pixels), -1, 3).mean(axis=1)
        mean[(mean == 0).all(axis=1)] = 1  # black (the padding of a batch) counts as grey
        return mean

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        # A text without a colour (the padding of a batch, say) is white.
        named = [[COLOURS[word] for word in text.split() if word in COLOURS] or [COLOURS["white"]] for text in texts]
        return np.array([np.sum(colours, axis=0) for colours in named], float)


class ConstantEncoder:
    """Everything has the same embedding, so every comparison is an exact tie."""

    image_size = 8

    def __init__(self, device: str) -> None:
        pass

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        return np.ones((len(pixels), 4))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 4))


COLOUR_MODEL = {"kind": "python", "path": "tests.benchmarks.layouts:ColourEncoder"}
CONSTANT_MODEL = {"kind": "python", "path": "tests.benchmarks.layouts:ConstantEncoder"}


def run(
    out: Path, benchmarks: list[dict[str, Any]], model: dict[str, Any], job: dict[str, Any] | None = None, **compute: Any
) -> tuple[RunResult, dict[str, dict[str, Any]]]:
    """Evaluate and return the result with the rows of samples.parquet by case id; `job` adds sections to the configuration."""
    settings = {"runner": "serial", "workers": 1, "decode_workers": 1, "batch_size": 4, "device": "cpu", **compute}
    stats = {"resamples": 100}
    whole = {"job": "eval", "name": "t", "output": str(out), "model": model, "benchmarks": benchmarks, "compute": settings, "stats": stats}
    result = evaluate(EvalJob.model_validate({**whole, **(job or {})}))
    samples = RunFolder(str(out)).read_table(RunFolder.SAMPLES).to_pylist()
    return result, {row["case_id"]: row for row in samples}


def solid(path: Path, colour: tuple[int, int, int]) -> None:
    """Write a picture of one colour (PNG, so that the colour is exact)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path, format="PNG")


def noise(path: Path, seed: int) -> None:
    """Write a random picture with coarse structure, of a size that depends on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    small.resize((36 + seed % 9, 40), Image.Resampling.BILINEAR).save(path)


def dump(path: Path, content: Any) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def words(rng: random.Random, count: int = 5) -> str:
    """Return a random sentence."""
    return " ".join(rng.choice(WORDS) for _ in range(count))


def write_spec(root: Path, subsets: dict[str, int], sets: int, seed: int = 0) -> None:
    """Write `sets` matching matrices per subset; `subsets` gives the candidates K of each."""
    rng = random.Random(seed)
    for number, (subset, k) in enumerate(subsets.items()):
        i2t, t2i = [], []
        for one in range(sets):
            images = [f"images/{one:03d}_{i}.png" for i in range(k)]
            texts = [words(rng) + f" {i}" for i in range(k)]
            for i, image in enumerate(images):
                noise(root / subset / image, seed * 7919 + number * 1000 + one * 10 + i)
                i2t.append({"query": image, "keys": texts, "label": i})
                t2i.append({"query": texts[i], "keys": images, "label": i})
        dump(root / subset / "image2text.json", i2t)
        dump(root / subset / "text2image.json", t2i)
