"""What several seeds say together: of the method, where one seed speaks of its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy import stats

_ROUNDING = 1e-12  # equal accuracies leave differences that differ by no more


def across_seeds(changes: Mapping[str, Mapping[str, Any]], level: float) -> dict[str, Any] | None:
    """Return, per arm and metric, the changes over seeds and what they say of the method; None for a single seed.

    Each seed gives one change (after minus before); they are independent repetitions of the whole method. The interval is Student's,
    mean ± t_{(1 + level) / 2, n - 1} s / sqrt(n), and ``p`` that of the two-sided one-sample t test. The test cases are the same for every
    seed, so this speaks of the method on these cases. Where all seeds agree to the last digit, as accuracies of few cases may by chance,
    the spread is not estimable: ``ci`` and ``p`` are None.

    Args:
        changes: seed -> arm -> metric -> row of a verdict, whose ``delta`` counts; all seeds have the same arms and metrics.
        level: confidence level.
    """
    if len(changes) < 2:
        return None
    first = next(iter(changes.values()))
    return {arm: {name: _summary([one[arm][name]["delta"] for one in changes.values()], level) for name in first[arm]} for arm in first}


def _summary(changes: list[float], level: float) -> dict[str, Any]:
    count = len(changes)
    mean = math.fsum(changes) / count
    if max(changes) - min(changes) < _ROUNDING:
        return {"deltas": changes, "mean": mean, "ci": None, "p": None}
    error = math.sqrt(math.fsum((change - mean) ** 2 for change in changes) / (count - 1) / count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return {"deltas": changes, "mean": mean, "ci": [mean - half, mean + half], "p": p}
