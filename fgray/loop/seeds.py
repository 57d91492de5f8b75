"""What several seeds say together: of the method, where one seed speaks of its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy import stats


def across_seeds(verdicts: Mapping[str, Mapping[str, Any]], level: float) -> dict[str, Any] | None:
    """Return, per arm and metric, the changes over seeds and what they say of the method; None for a single seed.

    Each seed gives one change (after minus before); they are independent repetitions of the whole method. The interval is Student's,
    mean ± t_{(1 + level) / 2, n - 1} s / sqrt(n), and ``p`` that of the two-sided one-sample t test. The test cases are the same for every
    seed, so this speaks of the method on these cases.

    Args:
        verdicts: seed -> verdict of that seed, all with the same arms and metrics.
        level: confidence level.
    """
    if len(verdicts) < 2:
        return None
    first = next(iter(verdicts.values()))
    found: dict[str, Any] = {}
    for arm, facts in first["arms"].items():
        found[arm] = {}
        for name in facts["metrics"]:
            changes = [one["arms"][arm]["metrics"][name]["delta"] for one in verdicts.values()]
            found[arm][name] = _summary(changes, level)
    return found


def _summary(changes: list[float], level: float) -> dict[str, Any]:
    count = len(changes)
    mean = math.fsum(changes) / count
    error = math.sqrt(math.fsum((change - mean) ** 2 for change in changes) / (count - 1) / count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    p = 1.0 if mean == 0 else 0.0 if error == 0 else float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return {"deltas": changes, "mean": mean, "ci": [mean - half, mean + half], "p": p}
