"""Adversarial refinement: a set in which the likelier text of a pair says nothing about which one is right."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BIN = 0.1  # nats per token: width of a bin of plausibility gaps


def keep_symmetric(gaps: Sequence[float], keys: Sequence[str], seed: int, width: float = BIN) -> npt.NDArray[np.bool_]:
    """Choose pairs so that their plausibility gaps are spread symmetrically about zero.

    This is SugarCrepe's adversarial refinement (Hsieh et al., NeurIPS 2023, algorithm 1, and ``adversarial_refine.py`` of its
    repository): pairs are binned by gap, and of two bins that mirror each other as many pairs stay as the smaller one has; gaps
    of exactly zero all stay. SugarCrepe bins two gaps at once, of a commonsense and of a grammar model whose scores lie in
    [0, 1], on a grid of 50 steps per unit; here there is one gap, of log-likelihoods. Its random choice is unseeded; here the
    pairs of a bin are ordered by a hash of seed and key, so that the choice depends on the set alone, not on its order.

    Args:
        gaps: score of the positive minus that of the negative, finite, one per pair.
        keys: a name of each pair, all different.
        seed: another seed keeps other pairs of the same bins.
        width: of a bin, in the unit of the gaps.

    Returns:
        bool [N]: whether the pair stays.
    """
    if len(set(keys)) != len(keys):
        raise ValueError("two pairs have the same key")
    bins: dict[int, list[int]] = {}
    for position, gap in enumerate(gaps):
        bins.setdefault(_signed_bin(gap, width), []).append(position)
    kept = np.zeros(len(keys), bool)
    for number, positions in bins.items():
        count = min(len(positions), len(bins.get(-number, [])))
        chosen = sorted(positions, key=lambda position: _draw(keys[position], seed))[:count]
        kept[chosen] = True
    return kept


def _signed_bin(gap: float, width: float) -> int:
    """Return the bin's number from 1 with the gap's sign; 0 for no gap."""
    if gap == 0:
        return 0
    return int(math.copysign(math.floor(abs(gap) / width) + 1, gap))


def _draw(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode()).digest()
