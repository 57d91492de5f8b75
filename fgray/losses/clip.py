"""CLIP's loss, InfoNCE in both directions (Radford et al. 2021), and the softmax over rows that other losses share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fgray.losses.base import Loss
from fgray.losses.features import Features

ABSENT = float("-inf")  # the logit of a negative that is not there: exp gives 0, and so does its gradient


def info_nce(
    anchors: Tensor,
    candidates: Tensor,
    scale: Tensor,
    rows: slice,
    negatives: Tensor | None = None,
    mask: Tensor | None = None,
    own: bool = False,
) -> Tensor:
    """Return the mean over rows i of -log softmax_j(scale * anchors[i] . c_j) at j = i, a scalar [].

    The c_j are the candidates, and the negatives where there are any.

    Args:
        anchors: [B, D], unit length.
        candidates: [B, D], unit length; candidates[i] is the right one for anchors[i].
        scale: [].
        rows: which anchors are summed.
        negatives: [B, K, D], further wrong candidates.
        mask: bool [B, K], which of them are there; None: all.
        own: a row sees its own K negatives only, not the B x K of the batch.
    """
    size = anchors.shape[0]
    target = torch.arange(size, device=anchors.device)[rows]
    anchors = anchors[rows]
    if negatives is None:
        return F.cross_entropy(scale * anchors @ candidates.T, target)
    if own:
        extra = scale * torch.einsum("rd,rkd->rk", anchors, negatives[rows])
        if mask is not None:
            extra.masked_fill_(~mask[rows], ABSENT)
        return F.cross_entropy(torch.cat([scale * anchors @ candidates.T, extra], dim=1), target)
    logits = scale * anchors @ torch.cat([candidates, negatives.flatten(0, 1)]).T  # one product, not two and a copy
    if mask is not None:
        there = torch.cat([mask.new_ones(size), mask.flatten()])
        logits.masked_fill_(~there, ABSENT)  # in place: the logits of a large batch are what fills the memory
    return F.cross_entropy(logits, target)


def clip_loss(features: Features) -> Tensor:
    """Return half the sum of InfoNCE from images to texts and from texts to images, a scalar [].

    With s_ij = scale * image_i . text_j over all B pairs: mean over rows i of
    -(log softmax_j(s_ij)[i] + log softmax_j(s_ji)[i]) / 2.
    """
    forth = info_nce(features.image, features.text, features.scale, features.rows)
    back = info_nce(features.text, features.image, features.scale, features.rows)
    return (forth + back) / 2


class Clip(Loss):
    """CLIP: InfoNCE from images to texts and back, every other pair of the batch a negative (Radford et al. 2021)."""

    name = "clip"

    def parts(self, features: Features) -> dict[str, Tensor]:
        """Return the one part."""
        return {self.name: clip_loss(features)}
