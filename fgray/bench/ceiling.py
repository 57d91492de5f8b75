"""What a device's matrix products reach at best: the bound that the gpu suites hold their rates against."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from fgray.errors import ConfigError

MATRIX = {"cuda": 8192, "cpu": 256}  # rows of the square product
PRODUCTS = 10  # per timing


def check_device(device: str) -> None:
    """Refuse a device that there is not.

    Raises:
        ConfigError: there is no such device here.
    """
    if device not in MATRIX:
        raise ConfigError(f"no device is called '{device}'", where="options.device", fix="use cuda, or cpu to try the code")
    if device == "cuda" and not torch.cuda.is_available():
        fix = "run it where there is one (device: cpu only tries the code)"
        raise ConfigError("this machine has no CUDA device", where="options.device", fix=fix)


def matrix_flops(device: str) -> float:
    """Return floating-point operations per second of a large square bf16 matrix product, the best of three timings."""
    rows = MATRIX[device]
    return product_flops(rows, rows, rows, device)


def product_flops(rows: int, columns: int, inner: int, device: str) -> float:
    """Return floating-point operations per second of bf16 products [rows, inner] x [inner, columns], the best of three timings."""
    a = torch.randn(rows, inner, device=device).to(torch.bfloat16)
    b = torch.randn(columns, inner, device=device).to(torch.bfloat16)
    return 2 * rows * columns * inner / min(seconds_per_call(lambda: torch.mm(a, b.T), PRODUCTS, device) for _ in range(3))


def seconds_per_call(call: Callable[[], Any], times: int, device: str) -> float:
    """Return what one of that many calls takes on the device; one more goes before the clock starts."""
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    call()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times
