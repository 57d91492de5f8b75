"""Matrix products as precise as their type says: what the bound of the screen counts on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep torch from rounding inputs or partial sums further than the type of a product requires; restore its settings after.

    By default a GPU may add the parts of a split fp16 product in fp16, and a process that asked for fast fp32 products
    (`torch.set_float32_matmul_precision`) gets them in TF32 or bf16. The settings belong to the process: no other thread may change
    them meanwhile.
    """
    gpu, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    wanted = (
        (gpu, "allow_fp16_reduced_precision_reduction", False),
        (gpu, "allow_fp16_accumulation", False),
        (gpu, "fp32_precision", "ieee"),
        (cpu, "fp32_precision", "ieee"),
    )
    before = [getattr(place, name) for place, name, _ in wanted]
    try:
        for place, name, value in wanted:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(wanted, before, strict=True):
            setattr(place, name, value)
