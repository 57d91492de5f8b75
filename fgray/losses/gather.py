"""Features of all ranks on every rank, and what each way of gathering does to the gradient.

W ranks bring b pairs each; B = W * b. L is the loss of one process on all B pairs, f_r the features of rank r, s the logit scale.
A loss is a mean over `rows`, and the gradients of the parameters are averaged over ranks afterwards (DDP, DeepSpeed): rank r
contributes its own f_r's part, so the towers receive (1/W) sum_r (d/df_r of what reaches rank r) df_r/dtheta.

- with_grad: every rank sums all rows, so every rank has the same loss L. The backward pass of the gathering sums over ranks what
  each has for f_r: W * dL/df_r. The mean over ranks gives dL/dtheta: weight 1. The scale's gradient is dL/ds on every rank, and so
  is its mean: weight 1. Exact.
- local: rank r sums its own b rows against all B columns: L_r, with L = mean of L_r. The gathering's backward pass sums over ranks:
  sum_q dL_q/df_r = W * dL/df_r; the mean gives dL/dtheta: weight 1. The scale's gradient is the mean of dL_r/ds = dL/ds: weight 1.
  Exact too, with 1/W of the logits on every rank; only the loss that a rank sees is that of its own rows.
- without_grad: every rank has the loss L, but the features of others are constants: rank r has dL/df_r, without the factor W.
  The mean over ranks gives (1/W) dL/dtheta: weight 1/W for the towers, in the direction of the exact gradient. The scale (and bias)
  stands in every rank's loss and keeps weight 1. With SGD the towers learn at 1/W of the rate; AdamW divides a constant factor out
  again, but a bound on the gradient's norm still sees smaller towers beside the same scale. This is what open_clip does without its
  options for gathering with gradient and for local loss, and CE-CLIP's code in every version.

Regions: rank r brings M_r of them, any number and also none; M = sum of M_r. All of the above holds for a loss whose region terms are
(1/M) times a sum over regions, except that in local mode rank r has (W/M) times the sum over its own M_r, so that the mean over ranks
is that of one process. The numbers M_r are exchanged first, then the rows, filled up to the largest M_r; what was filled up is cut off
by these numbers, and no row is looked at to find out whether it is there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fgray.losses.features import ALL_ROWS, GATHERED, MASKS, REGION_NUMBERS, REGIONS, Features

Mode = Literal["with_grad", "without_grad", "local"]


class _Gather(torch.autograd.Function):
    """[b, F] of every rank -> [B, F] on every rank; backward: the sum over ranks of each rank's own rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _all_gather(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        own = gradient.new_empty(gradient.shape[0] // dist.get_world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def _all_gather(own: Tensor) -> Tensor:
    gathered = own.new_empty(own.shape[0] * dist.get_world_size(), *own.shape[1:])
    dist.all_gather_into_tensor(gathered, own.contiguous())
    return gathered


def world_size() -> int:
    """Return the ranks of the default process group, 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(features: Features, mode: Mode) -> Features:
    """Return the features of all ranks, in the order of ranks, in at least float32; on one process those given.

    Every rank calls it with the same B, K and J, and with the same fields. It costs one collective in the forward pass (two with
    masks; regions cost three more) and, except for without_grad, one in the backward pass (two with regions): then all ranks must also
    run the same number of backward passes.
    The module's docstring says what each mode does to the gradient.

    Args:
        features: those of this rank; `rows` is not read.
        mode: with_grad, without_grad or local.

    Returns:
        Features of B * W pairs and of all ranks' regions; `rows` is this rank's part in local mode, else all of them.
    """
    world = world_size()
    features = dataclasses.replace(features.full_precision(), rows=ALL_ROWS, own_regions=ALL_ROWS)
    if world == 1:
        return features
    own = {name: getattr(features, name) for name in GATHERED if getattr(features, name) is not None}
    packed = torch.cat([x.flatten(1) for x in own.values()], dim=1)
    first = dist.get_rank() * features.size
    everything = _exchange(packed, mode)
    pieces = torch.split(everything, [x[0].numel() for x in own.values()], dim=1)
    gathered: dict[str, Any] = {name: piece.reshape(-1, *x.shape[1:]) for (name, x), piece in zip(own.items(), pieces, strict=True)}
    gathered.update(_gathered_masks(features))
    gathered.update(_gathered_regions(features, mode))
    rows = slice(first, first + features.size) if mode == "local" else ALL_ROWS
    return dataclasses.replace(features, rows=rows, **gathered)


def _exchange(own: Tensor, mode: Mode) -> Tensor:
    """Return [b, F] of every rank as [B, F]."""
    if mode != "without_grad":
        everything: Tensor = _Gather.apply(own)
        return everything
    first = dist.get_rank() * len(own)
    with torch.no_grad():
        others = _all_gather(own)
    return torch.cat([others[:first], own, others[first + len(own) :]])


def _gathered_regions(features: Features, mode: Mode) -> dict[str, Any]:
    """Return the fields of regions, in the order of ranks; ranks bring different numbers of them."""
    own = {name: getattr(features, name) for name in REGIONS if getattr(features, name) is not None}
    if not own:
        return {}
    packed = torch.cat(list(own.values()), dim=1)
    counts = _all_gather(torch.tensor([len(packed)], device=packed.device)).tolist()
    width = max(counts)
    if width == 0:
        return {}
    places = [range(rank * width, rank * width + count) for rank, count in enumerate(counts)]
    there = torch.tensor([place for places_of_rank in places for place in places_of_rank], device=packed.device)
    if torch.is_grad_enabled() and not packed.requires_grad:
        packed = packed.detach().requires_grad_()  # a rank without regions must take part in the backward pass, too
    everything = _exchange(F.pad(packed, (0, 0, 0, width - len(packed))), mode)[there]
    first = sum(counts[: dist.get_rank()])
    found: dict[str, Any] = dict(zip(own, torch.split(everything, [x.shape[1] for x in own.values()], dim=1), strict=True))
    if features.region_texts is not None:
        numbers = F.pad(features.region_texts, (0, width - len(features.region_texts)))
        found[REGION_NUMBERS] = _all_gather(numbers)[there]
    return {**found, "own_regions": slice(first, first + len(packed))}


def _gathered_masks(features: Features) -> dict[str, Tensor]:
    masks = {name: getattr(features, name) for name in MASKS if getattr(features, name) is not None}
    if not masks:
        return {}
    pieces = torch.split(_all_gather(torch.cat(list(masks.values()), dim=1)), [mask.shape[1] for mask in masks.values()], dim=1)
    return dict(zip(masks, pieces, strict=True))
