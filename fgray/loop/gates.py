"""Preservation gates: is the model after training not worse than before, by more than a stated margin?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from fgray.config.loop import GateConfig
from fgray.errors import ConfigError, did_you_mean
from fgray.evaluation.compare import Difference

Outcome = Literal["pass", "fail", "inconclusive"]
EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 3, "inconclusive": 4}  # 1 is an error, 2 a wrong command line


@dataclass(frozen=True)
class Gate:
    """The answer of one gate.

    Attributes:
        metric: which metric it watches.
        margin: the loss that is tolerated.
        outcome: pass, fail or inconclusive.
        delta: after minus before.
        low, high: confidence interval of it.
        clusters: independent clusters that decided.
        needed: clusters that would decide if the difference stayed what it is; None where the gate has decided, or where it stands
            exactly on the margin.
    """

    metric: str
    margin: float
    outcome: Outcome
    delta: float
    low: float
    high: float
    clusters: int
    needed: int | None


def judge(difference: Difference, margin: float) -> Gate:
    """Judge one metric: a non-inferiority test on the paired difference.

    It passes if the lower bound of the interval lies above -margin (non-inferior; Piaggio et al. 2012, JAMA 308, figure 1), fails if the
    upper bound lies below it (inferior), and is inconclusive otherwise: the data could not tell. The half width of an interval shrinks with
    the root of the number of clusters, which gives the number that would decide.

    Args:
        difference: metric after (run B) against before (run A).
        margin: tolerated loss, e.g. 0.01 for one point.
    """
    low, high = difference.interval
    outcome: Outcome = "pass" if low > -margin else "fail" if high < -margin else "inconclusive"
    needed = None
    distance = difference.difference + margin  # from the margin to the estimate
    if outcome == "inconclusive" and distance != 0:
        half = difference.difference - low if distance > 0 else high - difference.difference
        needed = math.floor(difference.clusters * (half / abs(distance)) ** 2) + 1
    return Gate(difference.name, margin, outcome, difference.difference, low, high, difference.clusters, needed)


def judge_all(differences: list[Difference], gates: list[GateConfig]) -> list[Gate]:
    """Judge every metric that a gate's pattern names; the first pattern that fits a metric counts.

    Raises:
        ConfigError: a pattern names no metric.
    """
    by_name = {difference.name: difference for difference in differences}
    refuse_unknown(gates, by_name)
    found = []
    for name, difference in by_name.items():
        margin = next((gate.margin for gate in gates if fnmatchcase(name, gate.metric)), None)
        if margin is not None:
            found.append(judge(difference, margin))
    return found


def refuse_unknown(gates: Iterable[GateConfig], metrics: Collection[str]) -> None:
    """Refuse a gate that watches nothing.

    Raises:
        ConfigError: a pattern names none of the metrics.
    """
    for gate in gates:
        if not any(fnmatchcase(name, gate.metric) for name in metrics):
            raise ConfigError(f"the gate '{gate.metric}' names no metric", where="gates", fix=did_you_mean(gate.metric, metrics))


def overall(gates: list[Gate]) -> Outcome:
    """Return fail if any gate failed, else inconclusive if any was, else pass."""
    outcomes = {gate.outcome for gate in gates}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
