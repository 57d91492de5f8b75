"""The train suite: steps of a training job against a bare loop and open_clip's own training code, and the time they wait for data."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fgray.bench import Row, compare_row
from fgray.bench.side import Side
from fgray.benchmarks.pairs import pairs_of
from fgray.benchmarks.spec_style import SpecStyle
from fgray.config.train import TrainClipJob
from fgray.data.importers import Record
from fgray.data.shards import build_shards
from fgray.errors import ConfigError
from fgray.storage import open_storage

MODULE = "fgray.bench.train_sides"
PEER = "open_clip_train"  # comes with open_clip_torch
DEFAULT_MODEL = {"kind": "open_clip", "arch": "ViT-S-32"}
PRECISIONS = ("fp32", "bf16")
WAIT_GOAL = 0.02
Answers = dict[str, list[dict[str, Any]]]


def run(options: Mapping[str, Any], output: str) -> Iterator[Row]:
    """Yield the rows of the suite; see `measure` for its options."""
    yield from measure(output, **options)


def measure(
    output: str,
    model: Mapping[str, Any] | None = None,
    cases: int = 9,
    batch: int = 32,
    steps: int = 4,
    precision: str = "fp32",
    threads: int = 2,
    repeats: int = 3,
) -> Iterator[Row]:
    """Measure every side in turn, each in its own process with the same number of threads and from the same weights.

    Ours reads, checks and decodes the pictures of its first epoch, in which its waiting is measured; its speed, later, with the
    pictures kept in memory, as the other sides have them.

    Args:
        output: run folder; the composed cases stay there.
        model: a model section; default a ViT-S-32 with random weights.
        cases: SPEC-style cases per subset, whose right answers are the pairs: as many whole batches as they make.
        batch: pairs of a step.
        steps: timed steps of a turn; one goes before.
        precision: arithmetic of the towers, "fp32" or "bf16".
        threads: of each side.
        repeats: interleaved turns, of which medians are reported.

    Raises:
        ConfigError: an option is wrong, the cases make too few batches, or open_clip comes without its training code.
        RunError: a side failed.
    """
    for name, number in {"cases": cases, "batch": batch, "steps": steps, "threads": threads, "repeats": repeats}.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{name} cannot be '{number}'", where=f"options.{name}", fix="give a whole number from 1 on")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision cannot be '{precision}'", where="options.precision", fix=f"choose {' or '.join(PRECISIONS)}")
    if find_spec(PEER) is None:
        raise ConfigError(f"the other side needs {PEER}", where="suite", fix="pip install 'open_clip_torch>=3.3', which brings it")
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as folder:
        epoch = write_pairs(Path(folder), cases, batch, open_storage(output).uri)
        job = {
            "job": "train_clip",
            "name": "bench",
            "model": dict(model or DEFAULT_MODEL),
            "sources": [{"pairs": {"name": "file", "root": f"{folder}/pairs.parquet", "images": f"{folder}/shards"}}],
            "batch_size": batch,
            "steps": epoch + steps,
            "optimizer": {"warmup_steps": 0, "schedule": "constant"},
            "compute": {"runner": "serial", "device": "cpu", "threads": threads, "precision": precision},
        }
        name = _check_model(job)
        answers = _take_turns(Path(folder), threads, repeats, {"job": job, "steps": 1 + steps})
    size = f"{name}, {precision}, batch {batch}, {threads} threads, median of {repeats} turns of {steps} steps"
    yield from _rows(answers, batch, epoch, size)


def _check_model(job: Mapping[str, Any]) -> str:
    """Return the name of the model; refuse one that cannot be trained before anything is started."""
    from fgray.training.model import open_trainable_source

    checked = TrainClipJob.model_validate({**job, "output": "unused"})
    return open_trainable_source(checked.model).card.name


def write_pairs(folder: Path, cases: int, batch: int, cache: str) -> int:
    """Write composed pictures as shards and their captions as pairs, whole batches of them; return how many batches they make."""
    loaded = SpecStyle(cases=cases).load(None, cache)
    pairs = pairs_of(loaded).table
    whole: int = pairs.num_rows // batch
    if whole < 2:
        what = f"{pairs.num_rows} pairs make fewer than two batches of {batch}"
        raise ConfigError(what, where="options", fix="raise cases or lower batch")
    chosen = pairs.take(pa.array(np.linspace(0, pairs.num_rows - 1, whole * batch).round().astype(np.int64)))  # of every subset
    keys = [f"{number:06d}" for number in range(chosen.num_rows)]
    encoded = loaded.images.read(loaded.images.locate(chosen["image"].to_pylist()))
    build_shards(_Pictures(dict(zip(keys, encoded, strict=True))), f"{folder}/shards")
    pq.write_table(pa.table({"image": keys, "text": chosen["text"]}), folder / "pairs.parquet")
    return whole


class _Pictures:
    """Encoded pictures by key, as `build_shards` takes them."""

    schema = None

    def __init__(self, encoded: Mapping[str, bytes]) -> None:
        self.encoded = encoded

    def records(self) -> Iterator[Record]:
        """Yield every picture."""
        for key, data in self.encoded.items():
            yield Record(key, "jpg", data, {})


def _take_turns(folder: Path, threads: int, repeats: int, task: Mapping[str, Any]) -> Answers:
    names = ("ours", "bare", "open_clip")
    answers: Answers = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(contextlib.closing(Side(MODULE, folder, name, threads, task))) for name in names]
        for number in range(repeats):
            for side in sides:
                answers[side.name].append(side.turn(number))
    return answers


def _rows(answers: Answers, batch: int, epoch: int, size: str) -> Iterator[Row]:
    """Yield the rows; ours is timed after its first epoch, the others after their first step."""
    timed = {name: slice(epoch if name == "ours" else 1, None) for name in answers}
    rates = {name: median(_rate(turn["seconds"][timed[name]], batch) for turn in turns) for name, turns in answers.items()}
    reading = median(_rate(turn["seconds"][1:epoch], batch) for turn in answers["ours"])
    for name, row, goal, what in (
        ("open_clip", "train_vs_open_clip", 1.0, "open_clip_train's train_one_epoch, normalised pictures and tokens in memory"),
        ("bare", "train_vs_loop", 0.95, "forward, backward, clip and step of the same model in a plain loop, tensors in memory"),
    ):
        note = f"{size}; ours: a training job after its first epoch, in which it made {reading:.3g} pairs/s; theirs: {what}; "
        note += f"losses differ by {largest_difference(answers['ours'], answers[name]):.1e} at most"
        yield compare_row(row, rates["ours"], rates[name], "pairs/s", more_is_better=True, goal=goal, note=note)
    share = median(sum(turn["waited"][1:epoch]) / sum(turn["seconds"][1:epoch]) for turn in answers["ours"])
    note = f"{size.rpartition(' of ')[0]}; steps 2 to {epoch} of the first epoch, in which every picture is read from shards on disk, "
    note += "checked and decoded; the goal is an upper bound"
    yield Row("data_wait_share", round(share, 4), None, "of the time", None, WAIT_GOAL, share <= WAIT_GOAL, note)


def _rate(seconds: Sequence[float], batch: int) -> float:
    """Return pairs per second."""
    return batch * len(seconds) / sum(seconds)


def largest_difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest relative difference of two sides' losses of the same steps."""
    differences = (
        abs(left / right - 1)
        for one, other in zip(ours, theirs, strict=True)
        for left, right in zip(one["losses"], other["losses"], strict=False)  # ours takes more steps
    )
    return float(max(differences))
