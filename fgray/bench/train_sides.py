"""The sides of the train suite; each is one process: ``python -m fgray.bench.train_sides TASK.json``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from fgray.bench.side import Turn, serve
from fgray.config.train import TrainClipJob
from fgray.losses.features import Features
from fgray.runs import RunFolder
from fgray.training.batch import Batch
from fgray.training.log import read_log
from fgray.training.model import Trainable, build_trainable, open_trainable_source
from fgray.training.optimizer import make_optimizer
from fgray.training.reader import Reader
from fgray.training.sources import load_sources
from fgray.training.tensors import prepare
from fgray.training.worker import cache_of, order_of, train_worker

AUTOCAST = {"fp32": "fp32", "bf16": "amp_bf16"}  # ours -> open_clip_train's name


def job_of(task: dict[str, Any], output: str = "data") -> TrainClipJob:
    """Return the training job that all sides do, with an output inside the suite's folder."""
    return TrainClipJob.model_validate({**task["job"], "output": f"{task['folder']}/{output}"})


def ours(task: dict[str, Any]) -> Turn:
    """A worker of a training job from its start to its last step, reader, log and all; what it measured is in its log."""

    def turn(number: int) -> dict[str, Any]:
        job = job_of(task, f"run-{number}")
        train_worker(job, job.compute.device)
        rows = read_log(RunFolder(job.output))
        assert len(rows) == job.steps, "a long job logs some steps only"
        shutil.rmtree(job.output)  # with a checkpoint that nobody needs
        return {
            "seconds": [1 / row["steps_per_second"] for row in rows],
            "waited": [row["data_wait_share"] / row["steps_per_second"] for row in rows],
            "losses": [row["loss"] for row in rows],
            "memory_gib": rows[-1]["memory_gib"],
        }

    return turn


def bare(task: dict[str, Any]) -> Turn:
    """The same calls of PyTorch in a plain loop: forward, backward, clip and step over tensors that lie in memory."""
    torch.set_num_threads(task["threads"])
    job = job_of(task)
    first = build_trainable(job.model)
    parts = [prepare(batch, first)[0] for batch in batches(job, first, task["steps"])]

    def turn(number: int) -> dict[str, Any]:
        module = build_trainable(job.model, precision=job.compute.precision).module
        optimizer = make_optimizer(module.named_weights(), job.optimizer)
        losses, seconds = [], []
        for part in parts:
            start = time.perf_counter()
            optimizer.zero_grad()
            output = module(part.pixels, part.tokens, part.size, part.text_index, part.image_index)
            loss = symmetric_cross_entropy(Features(**output))
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(module.parameters(), job.optimizer.clip_grad_norm or float("inf"))
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            losses.append(loss.item())
        return {"seconds": seconds, "losses": losses}

    return turn


def symmetric_cross_entropy(features: Features) -> Tensor:
    """Return CLIP's loss as its paper's pseudo-code has it, a scalar []."""
    logits = features.scale * features.image @ features.text.T
    target = torch.arange(len(logits))
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2


def open_clip_train(task: dict[str, Any]) -> Turn:
    """The ``train_one_epoch`` that comes with open_clip, over normalised pictures and tokens that lie in memory."""
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import const_lr
    from open_clip_train.train import train_one_epoch

    torch.set_num_threads(task["threads"])
    job = job_of(task)
    first, rate = build_trainable(job.model), job.optimizer.lr
    tensors = [open_clip_batch(batch, first) for batch in batches(job, first, task["steps"])]
    args = parse_args(["--precision", AUTOCAST[job.compute.precision], "--batch-size", str(job.batch_size), "--lr", str(rate)])
    args.grad_clip_norm = job.optimizer.clip_grad_norm
    args.device, args.rank, args.world_size, args.distill, args.wandb = "cpu", 0, 1, False, False

    def turn(number: int) -> dict[str, Any]:
        model = build_open_clip(job)
        optimizer = make_optimizer(dict(model.named_parameters()), job.optimizer)  # open_clip_train.main's groups
        loss = _Remembering()
        data = _Data(tensors)
        train_one_epoch(model, {"train": data}, loss, 0, optimizer, None, const_lr(optimizer, rate, 0, len(tensors)), None, args)
        return {"seconds": data.seconds(), "losses": [value.item() for value in loss.values]}

    return turn


def build_open_clip(job: TrainClipJob) -> Any:
    """Return open_clip's own model with the weights that ours starts from."""
    model = open_trainable_source(job.model).module()
    model.output_dict = True
    return model


class _Remembering:
    """open_clip's loss, whose values are kept to compare them with ours."""

    def __init__(self) -> None:
        self.loss, self.values = open_clip.ClipLoss(), list[Tensor]()

    def __call__(self, **features: Any) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.loss(**features)
        self.values.append(losses["contrastive_loss"].detach())
        return losses


class _Data:
    """What ``train_one_epoch`` takes for its data; notes when each batch is asked for, which is when the step before has ended."""

    def __init__(self, tensors: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.dataloader, self.tensors = self, tensors
        self.num_batches, self.num_samples = len(tensors), sum(len(images) for images, _ in tensors)
        self.asked: list[float] = []

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on it."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in self.tensors:
            self.asked.append(time.perf_counter())
            yield pair
        self.asked.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the time of each step."""
        return [stop - start for start, stop in zip(self.asked, self.asked[1:], strict=False)]


def batches(job: TrainClipJob, trainable: Trainable, steps: int) -> Iterator[Batch]:
    """Yield the first batches of a job, which every side computes."""
    sources = load_sources(job, cache_of(job))
    with Reader(sources, order_of(job, sources), trainable.preprocess, job.negatives, seed=job.seed) as reader:
        yield from reader.prefetch(0, steps)


def open_clip_batch(batch: Batch, trainable: Trainable) -> tuple[Tensor, Tensor]:
    """Return pictures fp32 [B, 3, H, W] as open_clip's preprocessing ends, and tokens int64 [B, L] of the whole context."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (trainable.preprocess.mean, trainable.preprocess.std))
    pixels = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float().div(255)
    return ((pixels - mean) / std).contiguous(), trainable.text.ids(batch.texts)


SIDES: dict[str, Callable[[dict[str, Any]], Turn]] = {"ours": ours, "bare": bare, "open_clip": open_clip_train}


if __name__ == "__main__":
    serve(SIDES, sys.argv[1])
