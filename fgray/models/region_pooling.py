"""From dense features to one embedding per region: RoIAlign over a box, or the mean under a mask (CLIPSelf's and FineCLIP's code)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_pool(tokens: Tensor, boxes: Tensor, image_of: Tensor) -> Tensor:
    """Return unit embeddings [M, D] of boxes: the RoIAlign average of already unit tokens, scaled to unit length again.

    This is torchvision's ``roi_align`` with output 1 x 1, scale 1, ``sampling_ratio=-1`` and ``aligned=True``: over a box of W x H cells
    the mean of ceil(W) x ceil(H) evenly spread points, each interpolated between the centres of the four cells around it.

    Args:
        tokens: unit embeddings [N, h, w, D] of pictures' cells.
        boxes: [M, 4] as x0, y0, x1, y1 in fractions of the picture that the tokens were computed from.
        image_of: int64 [M], the row of `tokens` that a box belongs to.
    """
    from torchvision.ops import roi_align

    dtype = _at_least_fp32(tokens)  # a box in half precision would be off by a cell
    height, width = tokens.shape[1:3]
    cells = boxes.to(dtype) * torch.tensor([width, height, width, height], device=boxes.device, dtype=dtype)
    rows = torch.cat([image_of.to(cells)[:, None], cells], dim=1)
    maps = tokens.to(dtype).permute(0, 3, 1, 2).contiguous()
    pooled: Tensor = roi_align(maps, rows, (1, 1), spatial_scale=1.0, sampling_ratio=-1, aligned=True)
    return F.normalize(pooled[..., 0, 0], dim=-1)


def mask_pool(tokens: Tensor, masks: Tensor, image_of: Tensor) -> Tensor:
    """Return unit embeddings [M, D] of masks: the mean of unit tokens under the mask, scaled to unit length again.

    A mask without any cell gives a zero row.

    Args:
        tokens: unit embeddings [N, h, w, D] of pictures' cells.
        masks: weights of the cells [M, h, w], zero outside the mask.
        image_of: int64 [M], the row of `tokens` that a mask belongs to.
    """
    dtype = _at_least_fp32(tokens)
    weights, flat = masks.to(dtype).flatten(1), tokens.to(dtype).flatten(1, 2)
    # Row by row, so that a mask's bits do not depend on the number of masks beside it.
    sums = [weights[row] @ flat[image] for row, image in enumerate(image_of.tolist())]
    means = torch.stack(sums) / (weights.sum(dim=1, keepdim=True) + 1e-12) if sums else flat[:0, 0]
    return F.normalize(means, dim=-1)


def _at_least_fp32(tokens: Tensor) -> torch.dtype:
    return torch.promote_types(tokens.dtype, torch.float32)
