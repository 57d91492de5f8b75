"""Values and gradients that the upstream implementations gave on random features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Golden:
    """The arrays of one recorded case, float64."""

    name: str
    arrays: dict[str, Tensor]

    def __getitem__(self, array: str) -> Tensor:
        return self.arrays[array]


def read_golden(path: Path) -> dict[str, Golden]:
    """Return every case of a file by name."""
    cases: dict[str, dict[str, Tensor]] = {}
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            name, _, array = key.partition("/")
            cases.setdefault(name, {})[array] = torch.from_numpy(stored[key].astype(np.float64))
    return {name: Golden(name, arrays) for name, arrays in cases.items()}
