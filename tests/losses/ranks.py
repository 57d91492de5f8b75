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
INPUTS = Inputs(texts=3, images=2, bias=True, regions=3)
COUNTS = ((2, 0, 1, 3, 0, 1), (0, 0, 0, 0, 2, 1), (0,) * PER_BATCH)  # regions of each pair, step by step: some ranks, then all, have none
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
    "fineclip": [{"name": "fineclip", "sd": 0.5, "rc": 2.0}],
    "fineclip_own_captions": [{"name": "fineclip", "repeated": False}],
    "fineclip_stopped": [{"name": "fineclip", "terms": "sd+gc"}],
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

    def regions(self, data: dict[str, Tensor], stopped: bool) -> Features:
        """Return the features with regions; the teacher's have no gradient where it is stopped."""
        towers = {"image": self.image, "text": self.text, "roi": self.image, "crop": self.image, "region_text": self.text}
        rows = {name: F.normalize(data[name] @ tower, dim=-1) for name, tower in towers.items()}
        if stopped:
            rows["crop"] = rows["crop"].detach()
        return Features(**rows, scale=self.logit_scale.exp(), region_texts=data["region_texts"])

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
    of_pair = torch.arange(PER_BATCH).repeat_interleave(torch.tensor(COUNTS[step]))
    data.update({name: torch.randn(len(of_pair), 6, generator=rng, dtype=torch.float64) for name in ("roi", "crop", "region_text")})
    data.update(region_texts=torch.arange(len(of_pair)) % 3, of_pair=of_pair)
    return data


def part_of_rank(data: dict[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    """Return a rank's pairs with their negatives and regions."""
    part = PER_BATCH // world
    own = data["of_pair"] // part == rank
    of_regions = ("roi", "crop", "region_text", "region_texts", "of_pair")
    return {name: x[own] if name in of_regions else x[rank * part : (rank + 1) * part] for name, x in data.items()}


def features_of(case: str, towers: Towers, data: dict[str, Tensor]) -> Features:
    if case.startswith("fineclip"):
        return towers.regions(data, stopped=case == "fineclip_stopped")
    return towers(data, bare=case == "clip")


def train(case: str, mode: Mode, rank: int, world: int) -> dict[str, np.ndarray]:
    """Return gradients averaged over ranks and, of this rank, losses and thresholds of every step."""
    towers = Towers()
    loss = CombinedLoss([LossConfig(**config) for config in LOSSES[case]], INPUTS)
    found: dict[str, np.ndarray] = {}
    for step in range(STEPS):
        towers.zero_grad()
        features = gather(features_of(case, towers, part_of_rank(data_of(step), rank, world)), mode)
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


def upstream(rank: int, world: int) -> dict[str, np.ndarray]:
    """Return gradients averaged over ranks of FineCLIP's loss as its authors' code has it."""
    loss = CombinedLoss([LossConfig(name="fineclip", upstream=True)], Inputs(regions=3, gather="without_grad"))
    found: dict[str, np.ndarray] = {}
    for step in range(STEPS):
        towers = Towers()
        loss(gather(features_of("fineclip", towers, part_of_rank(data_of(step), rank, world)), "without_grad"), step)[0].backward()
        for name, parameter in towers.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)
            found[f"upstream/{step}/{name}"] = (gradient / world).numpy()
    return found


def run_rank(rank: int, folder: str) -> None:
    """Train every case in groups of 3 and then of 2 processes; write what was found to FOLDER/WORLD-RANK.npz."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank >= world:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/{world}", rank=rank, world_size=world)
        found = {key: x for case in LOSSES for mode in MODES for key, x in train(case, mode, rank, world).items()}
        found.update(upstream(rank, world))
        np.savez(Path(folder) / f"{world}-{rank}.npz", **found)
        dist.destroy_process_group()
