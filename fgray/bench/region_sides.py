"""The sides of the regions suite; each is one process: ``python -m fgray.bench.region_sides TASK.json``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fgray.bench.side import Turn, serve
from fgray.bench.train_sides import job_of, ours
from fgray.training.model import build_trainable
from fgray.training.optimizer import make_optimizer
from fgray.training.reader import Reader
from fgray.training.sources import load_sources
from fgray.training.tensors import prepare
from fgray.training.worker import cache_of, order_of


def loop(task: dict[str, Any]) -> Turn:
    """The same calls of PyTorch in a plain loop: forward, FineCLIP's loss, backward, clip and step over tensors that lie in memory."""
    torch.set_num_threads(task["threads"])
    job = job_of(task)
    device = torch.device(job.compute.device)
    first = build_trainable(job.model, regions=job.regions)
    sources = load_sources(job, cache_of(job))
    with Reader(sources, order_of(job, sources), first.preprocess, job.negatives, seed=job.seed, regions=job.regions) as reader:
        batches = list(reader.prefetch(0, task["steps"]))
    parts = [prepare(batch, first)[0] for batch in batches]
    crops = [batch.regions.crops for batch in batches if batch.regions is not None and batch.regions.crops is not None]
    facts = {
        "crops": sum(len(some) for some in crops),
        "crop_bytes": sum(some.nbytes for some in crops),
        "crop_numbers": int(crops[0][:1].size) if len(crops[0]) else 3 * first.preprocess.size[0] ** 2,
        "images": sum(batch.size for batch in batches),
    }

    def turn(number: int) -> dict[str, Any]:
        module = build_trainable(job.model, precision=job.compute.precision, freeze=job.freeze, regions=job.regions).module.to(device)
        optimizer = make_optimizer(module.named_weights(), job.optimizer)
        losses, seconds = [], []
        for part in parts:
            start = time.perf_counter()
            optimizer.zero_grad()
            pixels, tokens, text_index, image_index = (x.to(device) for x in (part.pixels, part.tokens, part.text_index, part.image_index))
            regions = None if part.regions is None else part.regions.to(device)
            output = module(pixels, tokens, part.size, text_index, image_index, regions)
            loss = fineclip(output)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(module.parameters(), job.optimizer.clip_grad_norm or float("inf"))
            optimizer.step()
            losses.append(loss.item())  # waits for the device
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "losses": losses, **facts}

    return turn


def fineclip(features: dict[str, Tensor]) -> Tensor:
    """Return L_GC + L_SD + L_RC as FineCLIP's paper has them, a scalar []."""
    scale = features["scale"]
    contrasts = contrast(features["image"], features["text"], scale) + contrast(features["roi"], features["region_text"], scale)
    return contrasts + (1 - (features["roi"] * features["crop"]).sum(dim=1)).mean()


def contrast(left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """Return half the sum of both directions' cross-entropies, a scalar []."""
    logits = scale * left @ right.T
    target = torch.arange(len(logits), device=logits.device)
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2


SIDES: dict[str, Callable[[dict[str, Any]], Turn]] = {"ours": ours, "loop": loop}


if __name__ == "__main__":
    serve(SIDES, sys.argv[1])
