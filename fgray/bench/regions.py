"""The regions suite: a training step with regions against a loop written by hand, and the bytes of crops that a step takes along."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fgray.bench import Row, compare_row
from fgray.bench.ceiling import check_device
from fgray.bench.side import Side
from fgray.bench.train import largest_difference, write_pairs
from fgray.config.train import TrainClipJob
from fgray.data.index import open_images
from fgray.embedding.compute import device_name
from fgray.errors import ConfigError
from fgray.storage import open_storage

MODULE = "fgray.bench.region_sides"
DEFAULT_MODEL = {"kind": "open_clip", "arch": "ViT-S-32"}
MOST = 20  # boxes of an image, FineCLIP B/16
UPSTREAM_BYTES = 4  # of a crop's number: theirs travel as fp32
# How many of COCO128's 128 images have so many usable boxes; 20: 20 or more.
COCO128 = {
    **{0: 2, 1: 12, 2: 26, 3: 15, 4: 14, 5: 6, 6: 6, 7: 6, 8: 8, 9: 1, 10: 2, 11: 4, 12: 1},
    **{13: 5, 14: 4, 16: 3, 17: 4, 18: 2, 20: 7},
}
Answers = dict[str, list[dict[str, Any]]]


def run(options: Mapping[str, Any], output: str) -> Iterator[Row]:
    """Yield the rows of the suite; see `measure` for its options."""
    yield from measure(output, **options)


def measure(
    output: str,
    model: Mapping[str, Any] | None = None,
    cases: int = 3,
    batch: int = 8,
    steps: int = 4,
    threads: int = 2,
    repeats: int = 3,
    boxes: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    freeze: Sequence[str] = (),
) -> Iterator[Row]:
    """Measure both sides in turn, each in its own process with the same number of threads and from the same weights.

    Ours is a training job as it is: it reads, checks and decodes its pictures and cuts the regions out while it trains. The other side
    has the same tensors in memory.

    Args:
        output: run folder; the composed cases stay there.
        model: a model section; default a ViT-S-32 with random weights.
        cases: SPEC-style cases per subset, whose pictures get as many boxes as COCO's have.
        batch: pairs of a step.
        steps: timed steps of a turn; one goes before.
        threads: of each side.
        repeats: interleaved turns, of which medians are reported.
        boxes: of every picture; default: as many as COCO128's have.
        device: "cpu" or "cuda".
        precision: arithmetic of the towers, "fp32" or "bf16".
        freeze: patterns of parameters that stay as they are.

    Raises:
        ConfigError: an option is wrong, there is no such device, or the cases make too few batches.
        RunError: a side failed.
    """
    for name, number in {"cases": cases, "batch": batch, "steps": steps, "threads": threads, "repeats": repeats}.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{name} cannot be '{number}'", where=f"options.{name}", fix="give a whole number from 1 on")
    check_device(device)
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as name:
        folder = Path(name)
        write_pairs(folder, cases, batch, open_storage(output).uri)
        write_regions(folder, COCO128 if boxes is None else {boxes: 1})
        job = {
            "job": "train_clip",
            "name": "bench",
            "model": dict(model or DEFAULT_MODEL),
            "sources": [
                {
                    "pairs": {"name": "file", "root": f"{folder}/pairs.parquet", "images": f"{folder}/shards"},
                    "regions": {"boxes": f"{folder}/regions.parquet"},
                }
            ],
            "regions": {"most": MOST},
            "losses": [{"name": "fineclip"}],
            "batch_size": batch,
            "steps": 1 + steps,
            "optimizer": {"warmup_steps": 0, "schedule": "constant"},
            "freeze": list(freeze),
            "compute": {"runner": "serial", "device": device, "threads": threads, "precision": precision},
        }
        card = _check_model(job)
        answers = _take_turns(folder, threads, repeats, {"job": job, "steps": 1 + steps})
    place = f"{threads} threads" if device == "cpu" else device_name(device)
    yield from rows_of(answers, batch, f"{card}, {precision}, batch {batch}, {place}, median of {repeats} turns of {steps} steps")


def _check_model(job: Mapping[str, Any]) -> str:
    from fgray.training.model import open_trainable_source

    return open_trainable_source(TrainClipJob.model_validate({**job, "output": "unused"}).model).card.name


def write_regions(folder: Path, images_with: Mapping[int, int]) -> None:
    """Write boxes of 5 to 60 % of each side for the pictures of `folder`; `images_with` says how many of them get so many boxes."""
    index = open_images(f"{folder}/shards")
    keys = sorted(index.keys.to_pylist())
    rng = np.random.default_rng(0)
    counts = rng.permutation(np.repeat(list(images_with), list(images_with.values())))
    rows = []
    for number, (key, data) in enumerate(zip(keys, index.read(index.locate(keys)), strict=True)):
        width, height = Image.open(io.BytesIO(data)).size
        for box in range(int(counts[number % len(counts)])):
            w, h = rng.uniform(0.05, 0.6, 2) * (width, height)
            x, y = rng.uniform(0, 1, 2) * (width - w, height - h)
            rows.append({"image": key, "x": x, "y": y, "w": w, "h": h, "text": f"a photo of thing {box}"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "regions.parquet")


def _take_turns(folder: Path, threads: int, repeats: int, task: Mapping[str, Any]) -> Answers:
    names = ("ours", "loop")
    answers: Answers = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(contextlib.closing(Side(MODULE, folder, name, threads, task))) for name in names]
        for number in range(repeats):
            for side in sides:
                answers[side.name].append(side.turn(number))
    return answers


def rows_of(answers: Answers, batch: int, size: str) -> Iterator[Row]:
    """Yield the rows; the first step of every turn is not timed."""
    rates = {name: median(_rate(turn["seconds"][1:], batch) for turn in turns) for name, turns in answers.items()}
    note = f"{size}; ours: a training job that reads, decodes and cuts as it goes; theirs: the same passes, FineCLIP's loss as its paper "
    note += "has it, backward, clip and step in a plain loop, tensors in memory; losses differ by "
    note += f"{largest_difference(answers['ours'], answers['loop']):.1e} at most; "
    note += f"ours takes {max(turn['memory_gib'] for turn in answers['ours']):.1f} GiB"
    yield compare_row("region_step_vs_loop", rates["ours"], rates["loop"], "pairs/s", more_is_better=True, goal=0.95, note=note)
    facts = answers["loop"][0]
    ours, theirs = facts["crop_bytes"], facts["images"] * MOST * facts["crop_numbers"] * UPSTREAM_BYTES
    saved = 1 - ours / theirs
    note = f"{facts['images']} images, {facts['crops']} crops in uint8; theirs: FineCLIP's {MOST} crops of "
    note += "every image in fp32, MiB of a worker; the ratio is the share that is saved"
    yield Row("crop_bytes_saved", round(ours / 2**20, 3), round(theirs / 2**20, 3), "MiB", round(saved, 4), None, None, note)


def _rate(seconds: Sequence[float], batch: int) -> float:
    """Return pairs per second."""
    return batch * len(seconds) / sum(seconds)
