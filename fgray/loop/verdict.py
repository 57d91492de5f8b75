"""The verdict: what training changed, metric by metric and arm by arm, with one correction for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fgray.config.loop import BASE, GateConfig
from fgray.errors import DataError
from fgray.evaluation.compare import Comparison, compare_runs
from fgray.loop.gates import judge_all, overall
from fgray.metrics.paired import holm
from fgray.runs import SELECTION, RunFolder

VERDICT = "verdict.json"


def verdict(before: str, after: Mapping[str, str], gates: list[GateConfig], trained: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compare evaluation runs before and after training and judge the gates.

    Args:
        before: evaluation run of the model before training.
        after: arm -> evaluation run of the model after that arm's training, on the same benchmarks.
        gates: what must not get worse.
        trained: arm -> training run, whose selection sets are refused here; that of ``before`` stands under `BASE`. What has none is not
            checked.

    Returns:
        ``{"level", "arms": {arm: {"overall", "metrics": {name: {"before", "after", "delta", "ci95", "p", "p_adjusted",
        "primary", "clusters"}}, "gates": [...]}}}``. ``p_adjusted`` is Holm's over the primary metrics of all arms together; the other
        metrics have null.

    Raises:
        DataError: runs differ in their cases, or a benchmark was used to select a checkpoint.
        ConfigError: a gate names no metric.
    """
    for arm, run in {BASE: before, **after}.items():
        if trained is not None and arm in trained:
            refuse_selection(run, trained[arm])
    comparisons = {arm: compare_runs(before, run) for arm, run in after.items()}
    rows = _rows(comparisons)
    arms: dict[str, Any] = {}
    for arm, comparison in comparisons.items():
        judged = judge_all(comparison.metrics, gates)
        arms[arm] = {"overall": overall(judged), "metrics": rows[arm], "gates": [asdict(gate) for gate in judged]}
    return {"level": next(iter(comparisons.values())).level, "arms": arms}


def against(subject: str, controls: Mapping[str, str]) -> dict[str, Any]:
    """Compare the subject with each arm that is its control.

    Args:
        subject: evaluation run of the subject.
        controls: arm -> its evaluation run, on the same benchmarks.

    Returns:
        ``{arm: {metric: row}}``, rows as in `verdict`: ``before`` is the control's value, ``after`` the subject's. ``p_adjusted`` is Holm's
        over the primary metrics of all controls together.

    Raises:
        DataError: runs differ in their cases.
    """
    return _rows({arm: compare_runs(run, subject) for arm, run in controls.items()})


def _rows(comparisons: Mapping[str, Comparison]) -> dict[str, dict[str, Any]]:
    """Return one row per arm and metric, with one correction for the primary ones of all arms."""
    adjusted = holm({f"{arm}\n{item.name}": item.p_value for arm, one in comparisons.items() for item in one.metrics if item.primary})
    return {
        arm: {
            item.name: {
                "before": item.value_a,
                "after": item.value_b,
                "delta": item.difference,
                "ci95" if comparison.level == 0.95 else "ci": list(item.interval),
                "p": item.p_value,
                "p_adjusted": adjusted.get(f"{arm}\n{item.name}"),
                "primary": item.primary,
                "clusters": item.clusters,
            }
            for item in comparison.metrics
        }
        for arm, comparison in comparisons.items()
    }


def refuse_selection(evaluation: str, training: str) -> None:
    """Refuse to judge a model on cases that picked its checkpoint.

    Raises:
        DataError: a benchmark of the evaluation run is a selection set of the training run.
        NotFound: one of them is no run folder.
    """
    used = RunFolder(training).read_json(RunFolder.RUN).get(SELECTION) or {}
    for name, fingerprint in RunFolder(evaluation).read_json(RunFolder.METRICS)["fingerprints"]["data"].items():
        if fingerprint in used.values():
            raise DataError(
                f"'{name}' selected the checkpoint and cannot judge it, too",
                where=evaluation,
                fix="evaluate on other cases, or train without selecting on these",
            )
