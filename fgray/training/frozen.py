"""What frozen towers compute of a picture or text is computed once and kept in memory; only their heads run in every step."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from hashlib import blake2b

import torch
from torch import Tensor, nn

_ROWS = 64  # of one forward pass
_HEADS = ("head", "proj")  # the last child of open_clip's timm and Hugging Face towers

Part = Callable[[Tensor], Tensor]


class Memo:
    """A frozen function of rows whose results are kept by the rows' content, in fp32 on the CPU.

    A row's result may differ in its last bits with the rows that it was first computed beside.

    Args:
        part: rows [N, …] -> features [N, P], row by row, without anything to train.
        length: rows [N, …] -> int [N]; rows of like length are computed together. None: in the order in which they come.
    """

    def __init__(self, part: Part, length: Part | None = None) -> None:
        self._part, self._length = part, length
        self._kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """Return features fp32 [N, P] of rows [N, …]."""
        keys = [blake2b(row.contiguous().numpy(), digest_size=16).digest() for row in rows.cpu()]
        places = list({key: place for place, key in enumerate(keys) if key not in self._kept}.values())
        if self._length is not None and places:
            places = [places[number] for number in self._length(rows[places]).argsort(stable=True).tolist()]
        for start in range(0, len(places), _ROWS):
            chosen = places[start : start + _ROWS]
            features = self._part(rows[chosen]).float().cpu()
            self._kept.update({keys[place]: row.clone() for place, row in zip(chosen, features, strict=True)})
        return torch.stack([self._kept[key] for key in keys]).to(rows.device)


def split(tower: nn.Module) -> tuple[nn.Module, Part] | None:
    """Cut a tower into what is frozen and what comes after it; None where weights before its head are trained.

    Returns:
        Two functions, to be called one after the other; the second one is the head, or does nothing where the head is frozen, too.
    """
    trained = {id(weight) for weight in tower.parameters() if weight.requires_grad}
    if not trained:
        return tower, nn.Identity()
    for name in _HEADS:
        head = getattr(tower, name, None)
        if isinstance(head, nn.Module) and trained <= {id(weight) for weight in head.parameters()}:
            trunk = copy(tower)  # it shares all weights
            trunk._modules = {**tower._modules, name: nn.Identity()}
            return trunk, head
    return None


def memo_of_texts(trunk: nn.Module) -> Memo:
    """Return the memo of a text tower; one of Hugging Face masks padding, and computes no column that is padding in every row."""
    padding = getattr(getattr(trunk, "config", None), "pad_token_id", None)
    if padding is None:
        return Memo(trunk)

    def part(tokens: Tensor) -> Tensor:
        columns = int((tokens != padding).any(dim=0).nonzero().max()) + 1
        features: Tensor = trunk(tokens[:, :columns])
        return features

    return Memo(part, lambda tokens: (tokens != padding).sum(dim=1))
