"""FineCLIP's loss: regions against their captions, and the image's dense features against the crops' (Jing et al., NeurIPS 2024).

Formulas are the paper's; "code" means the authors' repository, FineCLIP, whose training differs from them: see `FineClip`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from fgray.errors import ConfigError
from fgray.losses import base
from fgray.losses.clip import ABSENT, clip_loss
from fgray.losses.features import Features, Inputs
from fgray.losses.gather import world_size

TERMS = ("gc", "sd", "rc")  # as the paper's indices: global contrast, self-distillation, region contrast


def self_distillation(features: Features) -> Tensor:
    """Return L_SD = (1/M) sum_j (1 - p_j . v_j) over the M regions of the batch, a scalar []; 0 where there are none.

    p_j is region j's dense feature (roi), v_j that of its crop; both get the gradient that they let through.
    """
    assert features.roi is not None and features.crop is not None
    rows = features.region_rows
    distances = 1 - (features.roi[rows] * features.crop[rows]).sum(-1)
    return distances.sum() * features.parts / max(features.regions, 1)


def region_contrast(features: Features, repeated: bool = True) -> Tensor:
    """Return L_RC, half the sum of InfoNCE from regions to their captions and back, a scalar []; 0 where there are no regions.

    With s_jk = scale * p_j . t_k over all M regions of the batch:
    -(1/2M) sum_j [log softmax_k(s_jk)[j] + log softmax_k(s_kj)[j]].

    Args:
        features: with `roi` and `region_text`.
        repeated: regions with the same caption are wrong answers for each other, as in the paper; False: they are left out, which
            needs `region_texts`.
    """
    assert features.roi is not None and features.region_text is not None
    regions, captions, rows = features.roi, features.region_text, features.region_rows
    own = torch.arange(len(regions), device=regions.device)[rows]
    absent = None
    if not repeated:
        assert features.region_texts is not None
        absent = features.region_texts[rows, None] == features.region_texts
        absent[torch.arange(len(own), device=own.device), own] = False
    total = regions.new_zeros(())
    for anchors, candidates in ((regions, captions), (captions, regions)):
        logits = features.scale * anchors[rows] @ candidates.T
        if absent is not None:
            logits.masked_fill_(absent, ABSENT)
        total = total + F.cross_entropy(logits, own, reduction="sum")
    return total / 2 * features.parts / max(len(regions), 1)


def distillation_upstream(features: Features) -> Tensor:
    """Return L_SD as the code has it, a scalar []: the mean over this rank's own regions, 0 where it has none.

    Its mean over ranks is not that over regions where ranks have different numbers of them. Provenance: code.
    """
    assert features.roi is not None and features.crop is not None
    own = features.own_regions
    distances = 1 - (features.roi[own] * features.crop[own]).sum(-1)
    return distances.sum() / max(len(distances), 1)


def contrast_upstream(features: Features, most: int) -> Tensor:
    """Return L_RC as the code has it, a scalar [].

    On one process rows of zeros fill the regions up to B * `most`, and stay: each is a wrong answer of logit 0 for every region and
    adds log(B * most) to the mean over all rows. On more processes the code drops them, and this is `region_contrast`.
    Provenance: code, and its own values on random features.

    Args:
        features: with `roi` and `region_text`.
        most: largest number of regions of an image.
    """
    if world_size() > 1:
        return region_contrast(features)
    assert features.roi is not None and features.region_text is not None
    fill = (0, 0, 0, features.size * most - features.regions)
    regions, captions = F.pad(features.roi, fill), F.pad(features.region_text, fill)
    logits = features.scale * regions @ captions.T
    own = torch.arange(len(regions), device=regions.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class FineClipOptions(base.Options):
    """Options of FineCLIP's loss."""

    terms: tuple[str, ...] = Field(TERMS, description="terms that are computed, joined by +: gc (global), sd (distillation), rc (regions)")
    sd: float = Field(1.0, gt=0, description="factor of the self-distillation, the paper's lambda")
    rc: float = Field(1.0, gt=0, description="factor of the region contrast, the paper's gamma")
    repeated: bool = Field(
        True, description="regions with equal captions are wrong answers for each other (paper); false: they are left out of the softmax"
    )
    upstream: bool = Field(False, description="compute as the authors' code does; goes with gather: without_grad")

    @field_validator("terms", mode="before")
    @classmethod
    def _terms(cls, value: Any) -> Any:
        parts = value.split("+") if isinstance(value, str) else value
        if not parts or len(set(parts)) < len(parts) or not set(parts) <= set(TERMS):
            raise ValueError(f"join some of {', '.join(TERMS)} by +, e.g. gc+sd+rc")
        return tuple(term for term in TERMS if term in parts)


class FineClip(base.Loss):
    """FineCLIP: global contrast + sd * self-distillation + rc * region contrast (Jing et al. 2024); `terms: sd` alone is CLIPSelf's.

    L = L_GC + lambda L_SD + gamma L_RC with lambda = gamma = 1. All contrasts have the same scale. M counts the regions of the whole
    batch, over all ranks. Who the teacher of L_SD is (the live model in the paper) is the run's matter: `regions.teacher`.

    lambda and gamma were 1 on 8 ranks and with a gathering without gradient, which gave L_GC and L_RC 1/8 of their weight beside L_SD.
    With a gathering with gradient the same numbers mean another loss; `sd: 8` is nearer to the authors'.

    With `upstream` (code): the gathering must be without gradient; L_SD is a mean over the rank's own regions, whose gradient is not
    divided by the ranks; on one process rows of zeros take part in L_RC. Not brought back: the code gives every image without
    regions a made-up one with an empty caption, and does not add up gradients over ranks at all.
    """

    name = "fineclip"
    Options = FineClipOptions

    def __init__(self, inputs: Inputs = Inputs(), **options: object) -> None:  # noqa: B008 (frozen)
        super().__init__(inputs, **options)
        if self.options.upstream and inputs.gather != "without_grad":
            what = f"fineclip's upstream does not go with gather {inputs.gather}"
            raise ConfigError(what, where="losses", fix="set gather: without_grad, or drop upstream")
        if self.options.upstream and not self.options.repeated:
            raise ConfigError("fineclip's upstream has no repeated: false", where="losses", fix="drop one of them")

    @property
    def needs(self) -> frozenset[str]:
        """Return the features of regions that the terms read."""
        by_term = {"gc": (), "sd": ("roi", "crop"), "rc": ("roi", "region_text")}
        return frozenset(name for term in self.options.terms for name in by_term[term])

    @property
    def weights(self) -> dict[str, float]:
        """Return 1 for gc, lambda for sd, gamma for rc, as far as they are computed."""
        factors = {"gc": 1.0, "sd": self.options.sd, "rc": self.options.rc}
        return {term: factors[term] for term in self.options.terms}

    @property
    def of_own_rows(self) -> frozenset[str]:
        """Return upstream's sd, which no gathering takes part in."""
        return frozenset({"sd"} if self.options.upstream else ())

    def parts(self, features: Features) -> dict[str, Tensor]:
        """Return the terms that are computed."""
        upstream, found = self.options.upstream, {}
        if "gc" in self.options.terms:
            found["gc"] = clip_loss(features)
        if "sd" in self.options.terms:
            found["sd"] = distillation_upstream(features) if upstream else self_distillation(features)
        if "rc" in self.options.terms:
            most = self.inputs.regions
            found["rc"] = contrast_upstream(features, most) if upstream else region_contrast(features, self.options.repeated)
        return found
