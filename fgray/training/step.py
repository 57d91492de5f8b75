"""One step of contrastive training: forward, loss over the batch of all ranks, backward, update.

A loss over a batch is no mean over its parts: each pair's negatives are the other pairs. So a batch that is too large for one forward
pass is computed with cached features (GradCache: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup"): all features without gradients first, the loss and its gradient in the features, then every part again with gradients, whose
features take their part of that gradient. The result is the whole batch's. ``micro_batch`` is another loss: each part has its own
negatives only.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from fgray.config.train import TrainClipJob
from fgray.errors import RunError
from fgray.losses.features import GATHERED, REGIONS, Features, concatenate
from fgray.losses.gather import gather
from fgray.training.engine import Engine
from fgray.training.state import whole_average
from fgray.training.teacher import VISUAL
from fgray.training.tensors import MicroBatch

GatherMode = Literal["with_grad", "without_grad", "local"]


class StepLoss(Protocol):
    """What a step needs of `fgray.losses.combine.CombinedLoss`."""

    def __call__(self, features: Features, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of gathered features and its terms, scalars []."""
        ...

    def update(self, features: Features) -> None:
        """Carry state to the next step."""
        ...


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed.

    Attributes:
        gather: how features of other ranks take part.
        micro_batch: pairs of one forward pass; None: the rank's whole part.
        accumulation: what happens where there are several forward passes.
        seed: of the run; dropout draws from (seed, step, rank) and from nothing that a checkpoint would have to carry.
    """

    gather: GatherMode = "with_grad"
    micro_batch: int | None = None
    accumulation: Literal["cached", "micro_batch"] = "cached"
    seed: int = 0

    @classmethod
    def of(cls, job: TrainClipJob) -> StepOptions:
        """Return the options of a job."""
        return cls(job.gather, job.compute.micro_batch, job.compute.accumulation, job.seed)


def train_step(engine: Engine, loss: StepLoss, parts: Sequence[MicroBatch], step: int, options: StepOptions) -> dict[str, float]:
    """Take one step; every rank calls it with as many pairs, cut into as many parts.

    Args:
        engine: model and optimizer.
        loss: the sum of the loss' terms.
        parts: this rank's forward passes, from `prepare`.
        step: number of the step, from 0.
        options: how the step is computed.

    Returns:
        ``loss`` and ``loss/TERM`` (mean over ranks), ``gradient_norm``, ``learning_rate``, ``logit_scale`` (the factor of cosines),
        ``skipped``: 1 where fp16 overflowed and the weights stay, and in a run with regions ``regions``: M of the step, over all ranks.

    Raises:
        RunError: the loss or its gradient is not finite, on any rank; no step is taken, and all ranks raise.
    """
    torch.manual_seed(_seed(options.seed, step, engine.rank))
    if len(parts) == 1:
        features, values = _whole(engine, loss, parts[0], step, options)
    elif options.accumulation == "cached":
        features, values = _cached(engine, loss, parts, step, options)
    else:
        features, values = _accumulated(engine, loss, parts, step, options)
    values = _mean_over_ranks(values)
    if not torch.isfinite(values["loss"]):
        engine.forget_gradient()
        broken = [name for name, value in values.items() if name.startswith("loss/") and not torch.isfinite(value)]
        raise RunError(
            "the loss is not finite" + (f" ({', '.join(broken)})" if broken else ""),
            where=f"step {step}",
            fix="lower optimizer.lr or lengthen optimizer.warmup_steps, and resume from the last checkpoint; no step was taken",
        )
    update = engine.update(step)
    follow_average(engine)
    with torch.no_grad():
        loss.update(features)
    regions = {} if features.roi is None else {"regions": float(features.regions)}
    return (
        regions
        | {name: float(value) for name, value in values.items()}
        | {
            "gradient_norm": update.gradient_norm,
            "learning_rate": update.learning_rate,
            "logit_scale": float(features.scale),
            "skipped": float(update.skipped),
        }
    )


def follow_average(engine: Engine) -> None:
    """Give the teacher of self-distillation the weights of the moving average, where it is that; every rank calls it."""
    module = engine.trainable.module
    if module.teacher is not None and module.teacher_kind == "ema":
        module.teacher.take(whole_average(engine, VISUAL))


Values = dict[str, Tensor]


def _whole(engine: Engine, loss: StepLoss, part: MicroBatch, step: int, options: StepOptions) -> tuple[Features, Values]:
    features = gather(_forward(engine, part), options.gather)
    total, terms = loss(features, step)
    engine.backward(total)
    return _detached(features), _values(total, terms)


def _accumulated(engine: Engine, loss: StepLoss, parts: Sequence[MicroBatch], step: int, options: StepOptions) -> tuple[Features, Values]:
    """Add the gradients of each part's own loss, weighted by its share of the pairs."""
    pairs = sum(part.size for part in parts)
    kept: list[Features] = []
    sums: Values = {}
    for part in parts:
        own = _forward(engine, part)
        total, terms = loss(gather(own, options.gather), step)
        share = part.size / pairs
        engine.backward(total * share, last=part is parts[-1])
        for name, value in _values(total, terms).items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * share
        kept.append(_detached(own))
    return gather(concatenate(kept), "without_grad"), sums


def _cached(engine: Engine, loss: StepLoss, parts: Sequence[MicroBatch], step: int, options: StepOptions) -> tuple[Features, Values]:
    states, rows = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(engine.device))
            rows.append(_forward(engine, part))
    leaves = _leaves(concatenate(rows))
    gathered = gather(leaves, options.gather)
    total, terms = loss(gathered, step)
    torch.autograd.backward(total)
    start = first_region = 0
    crops = engine.trainable.module.teacher_kind == "live"  # else they have no gradient
    for part, own, state in zip(parts, rows, states, strict=True):
        with _replayed(state, engine.device):
            again = _forward(engine, part, crops)
        pairs, regions = slice(start, start + part.size), slice(first_region, first_region + own.regions)
        engine.backward(_surrogate(again, leaves, pairs, regions, 1 / len(parts)), last=part is parts[-1])
        start, first_region = pairs.stop, regions.stop
    return _detached(gathered), _values(total, terms)


_ROWS = {name: "pairs" for name in GATHERED} | {name: "regions" for name in REGIONS}
_SCALARS = ("scale", "bias")


def _surrogate(features: Features, leaves: Features, pairs: slice, regions: slice, share: float) -> Tensor:
    """Return a scalar whose gradient in a part's features is the cached gradient of the loss.

    `pairs` and `regions` are the rows of the part among all.

    Scale and bias come out of every forward pass alike; each takes its share of their gradient.
    """
    terms = []
    rows = {"pairs": pairs, "regions": regions}
    for name in (*_ROWS, *_SCALARS):
        value, leaf = getattr(features, name), getattr(leaves, name)
        if value is None:
            continue
        if leaf.grad is None:  # the loss does not read it
            terms.append((value * 0).sum())
        else:
            terms.append((value * (leaf.grad[rows[_ROWS[name]]] if name in _ROWS else leaf.grad * share)).sum())
    return torch.stack(terms).sum()


def _forward(engine: Engine, part: MicroBatch, crops: bool = True) -> Features:
    tensors = [part.pixels, part.tokens, part.text_index, part.image_index]
    pixels, tokens, text_index, image_index = (tensor.to(engine.device, non_blocking=True) for tensor in tensors)
    regions = None if part.regions is None else part.regions.to(engine.device)
    if regions is not None and not crops:
        regions = regions.without_crops()
    output: dict[str, Any] = dict(engine.forward(pixels, tokens, part.size, text_index, image_index, regions))
    return Features(
        **output,
        region_texts=regions.text_numbers if regions is not None and "region_text" in output else None,
        text_mask=text_index >= 0 if "negative_texts" in output else None,
        image_mask=image_index >= 0 if "negative_images" in output else None,
    )


def _tensors(features: Features) -> dict[str, Any]:
    return {name: value for name in (*_ROWS, *_SCALARS) if (value := getattr(features, name)) is not None}


def _detached(features: Features) -> Features:
    return dataclasses.replace(features, **{name: value.detach() for name, value in _tensors(features).items()})


def _leaves(features: Features) -> Features:
    return dataclasses.replace(features, **{name: value.detach().requires_grad_() for name, value in _tensors(features).items()})


def _values(total: Tensor, terms: dict[str, Tensor]) -> Values:
    return {"loss": total.detach()} | {f"loss/{name}": value.detach() for name, value in terms.items()}


def _mean_over_ranks(values: Values) -> Values:
    """Return means over ranks; one that is not finite anywhere is not finite everywhere."""
    stacked = torch.stack([value.double() for value in values.values()])
    dist.all_reduce(stacked)
    return dict(zip(values, (stacked / dist.get_world_size()).cpu(), strict=True))


def _seed(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:8], "big") >> 1


RandomState = tuple[Tensor, Tensor | None]


def _random_state(device: torch.device) -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: RandomState, device: torch.device) -> Iterator[None]:
    """Draw the same random numbers, dropout's, as when the state was taken."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
    yield
