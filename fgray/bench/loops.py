"""The other side of the comparison: plain PyTorch loops in a fresh process, without fgray's engine, store or requests.

Run as ``python -m fgray.bench.loops TASK.json``; prints one JSON object. They share the model and its preprocessing
with ours, so that only the way of running differs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from fgray.config.schema import ModelConfig
from fgray.models import open_model


class Loop:
    """A loaded model with the plainest possible loops around it."""

    def __init__(self, model: dict[str, Any], threads: int, batch: int) -> None:
        import torch

        torch.set_num_threads(threads)
        config: Any = TypeAdapter(ModelConfig).validate_python(model)
        self.source, self.batch = open_model(config), batch
        self.model = self.source.load("cpu")

    def images(self, paths: Sequence[str]) -> None:
        """Decode, preprocess and embed pictures in batches."""
        for start in range(0, len(paths), self.batch):
            pixels = []
            for path in paths[start : start + self.batch]:
                with Image.open(path) as image:
                    pixels.append(self.source.preprocess(image.convert("RGB")))
            self.model.embed_images(np.stack(pixels))

    def texts(self, texts: Sequence[str]) -> None:
        """Embed texts in batches."""
        for start in range(0, len(texts), self.batch):
            self.model.embed_texts(list(texts[start : start + self.batch]))


def embed_loop(task: dict[str, Any]) -> dict[str, float]:
    """Embed every picture once; one warm-up batch goes before the clock starts."""
    loop = Loop(task["model"], task["threads"], task["batch"])
    loop.images(task["images"][: loop.batch])
    start = time.perf_counter()
    loop.images(task["images"])
    return {"images_per_second": len(task["images"]) / (time.perf_counter() - start)}


def naive_spec(task: dict[str, Any]) -> dict[str, float]:
    """Evaluate as SPEC's own harness does: for every row, encode its query and all its candidates."""
    loop = Loop(task["model"], task["threads"], task["batch"])
    loop.images(task["rows"][0]["images"] * loop.batch)
    loop.texts(task["rows"][0]["texts"])
    start = time.perf_counter()
    # Rows are batched as the harness batches them; what it encodes is every picture and every text of every row.
    for at in range(0, len(task["rows"]), loop.batch):
        rows = task["rows"][at : at + loop.batch]
        loop.images([path for row in rows for path in row["images"]])
        loop.texts([text for row in rows for text in row["texts"]])
    return {"seconds": time.perf_counter() - start}


def first_batch(task: dict[str, Any]) -> dict[str, float]:
    """Load the model and embed one batch; the caller's clock covers the whole process."""
    Loop(task["model"], task["threads"], task["batch"]).images(task["images"][: task["batch"]])
    return {}


TASKS = {"embed_loop": embed_loop, "naive_spec": naive_spec, "first_batch": first_batch}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(TASKS[given["task"]](given)))
