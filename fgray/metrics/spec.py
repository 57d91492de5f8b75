"""How a benchmark says which numbers it reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ties = Literal["wrong", "first", "expected"]
"""What an exact tie between the best right candidate and wrong ones counts as.

wrong: the tied wrong candidates all go before it. first: the candidate order decides (argmax, stable top-k).
expected: the probability of a hit when ties are broken at random (1/tied for top-1 with one right candidate).
"""


@dataclass(frozen=True)
class Metric:
    """A mean over samples of the hit at rank k.

    Attributes:
        name: ``benchmark/subset/metric`` as it stands in metrics.json.
        subset, task: which samples it covers.
        k: a sample counts when a right candidate is among the first k (accuracy: 1).
        ties: tie policy.
        per_category: average within each sample's category first (mean per-class recall).
    """

    name: str
    subset: str
    task: str
    k: int = 1
    ties: Ties = "wrong"
    per_category: bool = False


@dataclass(frozen=True)
class Macro:
    """The unweighted mean of other metrics; its interval resamples all of them together."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Pooled:
    """All samples of several metrics as one (a micro average)."""

    name: str
    parts: tuple[str, ...]


AnyMetric = Metric | Macro | Pooled
