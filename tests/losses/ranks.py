"""What runs on every rank in the tests of gathering: small towers, three steps, gradients averaged over ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fgray.config.train import LossConfig
from fgray.losses.combine import CombinedLoss
from fgray.losses.features import Features, Inputs
from fgray.losses.gather import Mode, gather

MODES: tuple[Mode, ...] = ("with_grad", "local", "without_grad")
STEPS = 3
PER_BATCH = 6  # pairs of a step, over all ranks
INPUTS = Inputs(texts=3, images=2, bias=True)
LOSSES: dict[str, list[dict[str, Any]]] = {
    "clip": [{"name": "clip"}],
    "siglip": [{"name": "siglip"}],
    "negclip": [{"name": "negclip"}],
    "spec": [{"name": "spec", "mu": 0.7}],
    "spec_own": [{"name": "spec", "negatives": "own"}],
    "ce_clip": [{"name": "ce_clip", "cmr": 1.0}],
    "ce_clip_max": [{"name": "ce_clip", "threshold": "max"}],
    "ce_clip_head": [{"name": "ce_clip", "upstream": "head", "cmr": 1.0}],
    "ce_clip_mid": [{"name": "ce_clip", "upstream": "mid"}],
    "ce_clip_b8a5244": [{"name": "ce_clip", "upstream": "b8a5244", "threshold": "max"}],
    "all": [{"name": name, "weight": 0.5, "warmup_steps": 2} for name in ("clip", "siglip", "negclip", "spec", "ce_clip")],
}

Gradients = dict[str, Tensor]


class Towers(nn.Module):
    """Linear towers, a logit scale and a bias, float64, the same on every rank."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(7)
        self.image = nn.Parameter(torch.randn(6, 5, generator=rng, dtype=torch.float64))
        self.text = nn.Parameter(torch.randn(6, 5, generator=rng, dtype=torch.float64))
        self.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, data: dict[str, Tensor], bare: bool) -> Features:
        image, text, negative_texts, negative_images = (
            F.normalize(data[name] @ tower, dim=-1)
            for name, tower in (
                ("image", self.image),
                ("text", self.text),
                ("negative_texts", self.text),
                ("negative_images", self.image),
            )
        )
        if bare:
            return Features(image, text, self.logit_scale.exp())
        return Features(
            image,
            text,
            self.logit_scale.exp(),
            self.bias,
            negative_texts * data["text_mask"][..., None],
            data["text_mask"],
            negative_images * data["image_mask"][..., None],
            data["image_mask"],
        )


def data_of(step: int) -> dict[str, Tensor]:
    """Return the whole batch of a step; in step 1 the first pairs have no negatives, so ranks have unequal numbers of them."""
    rng = torch.Generator().manual_seed(step)
    shapes = {"image": (), "text": (), "negative_texts": (INPUTS.texts,), "negative_images": (INPUTS.images,)}
    data = {name: torch.randn(PER_BATCH, *shape, 6, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
    for name, width in (("text_mask", INPUTS.texts), ("image_mask", INPUTS.images)):
        data[name] = torch.rand(PER_BATCH, width, generator=rng) < 0.6
        if step == 1:
            data[name][:3] = False
    return data


def train(case: str, mode: Mode, rank: int, world: int) -> dict[str, np.ndarray]:
    """Return gradients averaged over ranks and, of this rank, losses and thresholds of every step."""
    towers = Towers()
    loss = CombinedLoss([LossConfig(**config) for config in LOSSES[case]], INPUTS)
    found: dict[str, np.ndarray] = {}
    for step in range(STEPS):
        towers.zero_grad()
        part = PER_BATCH // world
        data = {name: x[rank * part : (rank + 1) * part] for name, x in data_of(step).items()}
        features = gather(towers(data, bare=case == "clip"), mode)
        total, _ = loss(features, step)
        total.backward()
        loss.update(features)
        for name, parameter in towers.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if world > 1:
                dist.all_reduce(gradient)
            found[f"{case}/{mode}/{step}/grad/{name}"] = (gradient / world).numpy()
        found[f"{case}/{mode}/{step}/loss"] = total.detach().numpy()
        for name, value in loss.state_dict().items():
            found[f"{case}/{mode}/{step}/state/{name}"] = value.numpy().copy()
    return found


def run_rank(rank: int, folder: str) -> None:
    """Train every case in groups of 3 and then of 2 processes; write what was found to FOLDER/WORLD-RANK.npz."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank >= world:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/{world}", rank=rank, world_size=world)
        found = {key: x for case in LOSSES for mode in MODES for key, x in train(case, mode, rank, world).items()}
        np.savez(Path(folder) / f"{world}-{rank}.npz", **found)
        dist.destroy_process_group()
