"""SigLIP's loss: every image-text pair of the batch is a yes-no question (Zhai et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fgray.losses.base import Loss
from fgray.losses.features import Features


def siglip_loss(features: Features) -> Tensor:
    """Return the mean over rows i of -sum_j log sigmoid(z_ij * (scale * image_i . text_j + bias)), a scalar [].

    z_ij is 1 where i = j, else -1; j runs over the texts of all B pairs. The sum over j is not divided by B, as in the paper
    [mem: eq. 1 of arXiv 2303.15343, -1/|B| sum_i sum_j].
    """
    assert features.bias is not None
    logits = features.scale * features.image[features.rows] @ features.text.T + features.bias
    signs = -torch.ones_like(logits)
    own = torch.arange(features.size, device=logits.device)[features.rows]
    signs[torch.arange(len(own), device=logits.device), own] = 1
    return -F.logsigmoid(signs * logits).sum(dim=1).mean()


class SigLip(Loss):
    """SigLIP: a sigmoid for every image-text pair of the batch (Zhai et al. 2023); needs a model with a logit bias."""

    name = "siglip"

    @property
    def needs(self) -> frozenset[str]:
        """Return the logit bias."""
        return frozenset({"bias"})

    def parts(self, features: Features) -> dict[str, Tensor]:
        """Return the one part."""
        return {self.name: siglip_loss(features)}
