"""The report of a loop: what each arm changed, what the gates say, and what several seeds say together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fgray.report.page import render, write_page
from fgray.report.wording import metric_label, words
from fgray.runs import RunFolder

_DIRECTIONS = ("i2t_accuracy", "t2i_accuracy")
_LAST = ("macro", "naming")  # subsets that stand below the others: their mean, then the control


def write_loop_report(run: RunFolder) -> str:
    """Write ``report.html`` from run.json and verdict.json, and return its URI.

    Raises:
        NotFound: one of these files is missing.
        StorageError: the page cannot be written.
    """
    facts, content = run.read_run(), run.read_json("verdict.json")
    page = render(
        "loop.html.j2",
        run=facts,
        verdict=content,
        seeds={seed: tables(one, content["subject"]) for seed, one in content["seeds"].items()},
        across=_across(content["across_seeds"], content["subject"]),
        across_against=_across(content["across_seeds_against"], content["subject"]),
        config=json.dumps(facts.get("config"), indent=1, ensure_ascii=False),
    )
    return write_page(page, f"{run.uri}/{run.REPORT}")


def tables(seed: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Return what the page says of one seed.

    Args:
        seed: its part of verdict.json.
        subject: the arm that the verdict is about; it stands last.

    Returns:
        ``arms``: their names in order. ``groups`` and ``directions``: [(benchmark, rows)], one row per metric with its label, chance, value
        before and one cell per arm; the second holds the two directions of what the first gives the mean of. ``gates``: [(arm, gate)].
        ``equal_steps``: whether all arms were trained equally long. ``controls`` and ``against``: the other arms, and rows whose cells
        compare the subject with each of them.
    """
    controls = [arm for arm in seed["arms"] if arm != subject]
    arms = [*controls, subject]
    changes = {arm: seed["arms"][arm]["metrics"] for arm in arms}
    names = ordered(changes[subject])
    shown = [name for name in names if not _is_direction(name, names) or changes[subject][name]["primary"]]
    hidden = [name for name in names if name not in shown]
    return {
        "arms": arms,
        "groups": _groups(shown, changes, seed["chance"]),
        "directions": _groups(hidden, changes, seed["chance"]),
        "gates": [(arm, gate) for arm in reversed(arms) for gate in seed["arms"][arm]["gates"]],
        "equal_steps": len(set(seed["steps"].values())) == 1,
        "controls": controls,
        "against": _groups(shown, {arm: seed["against"][arm] for arm in controls}, seed["chance"]) if controls else [],
    }


def ordered(metrics: Mapping[str, Any]) -> list[str]:
    """Return the metrics' names by benchmark and subset; a benchmark's mean and its control stand last."""

    def place(name: str) -> tuple[str, int, str, str]:
        benchmark, subset, metric = _parts(name)
        return benchmark, 1 + _LAST.index(subset) if subset in _LAST else 0, subset, metric

    return sorted(metrics, key=place)


def _groups(names: list[str], cells: Mapping[str, Mapping[str, Any]], chance: Mapping[str, float | None]) -> list[tuple[str, list[Any]]]:
    groups: dict[str, list[Any]] = {}
    for name in names:
        benchmark, subset, metric = _parts(name)
        siblings = [other.rpartition("/")[2] for other in names if other.rpartition("/")[0] == name.rpartition("/")[0]]
        label = words(subset) if metric == "accuracy" else f"{words(subset)}, {metric_label(metric, siblings).lower()}"
        row = [{**metrics[name], "interval": metrics[name].get("ci95") or metrics[name]["ci"]} for metrics in cells.values()]
        one = {
            "name": name,
            "label": label,
            "chance": chance.get(name),
            "cells": row,
            "before": row[0]["before"],
            "mean": subset == "macro",
        }
        groups.setdefault(benchmark, []).append(one)
    return list(groups.items())


def _across(found: Mapping[str, Any] | None, subject: str) -> list[tuple[str, list[Any]]]:
    """Return what several seeds say together, [(benchmark, rows)], with the subject last; nothing for a single seed or arm."""
    if not found:
        return []
    arms = sorted(found, key=lambda arm: arm == subject)
    names = ordered(found[arms[0]])
    groups: dict[str, list[Any]] = {}
    for name in (name for name in names if not _is_direction(name, names)):
        benchmark, subset, metric = _parts(name)
        label = words(subset) if metric == "accuracy" else f"{words(subset)}, {metric_label(metric).lower()}"
        cells = [{"arm": arm, **found[arm][name]} for arm in arms]
        groups.setdefault(benchmark, []).append({"label": label, "cells": cells, "mean": subset == "macro"})
    return list(groups.items())


def _parts(name: str) -> tuple[str, str, str]:
    """Split a metric's name into benchmark, subset and metric; a name of two parts has no subset of its own."""
    parts = name.split("/")
    return "/".join(parts[: max(1, len(parts) - 2)]), parts[-2], parts[-1]


def _is_direction(name: str, names: list[str]) -> bool:
    subset, _, metric = name.rpartition("/")
    return metric in _DIRECTIONS and f"{subset}/accuracy" in names
