"""How names and numbers are worded, in HTML and in the terminal alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TASKS = {
    "i2t": "image → text",
    "t2i": "text → image",
    "text_retrieval": "image → text",
    "image_retrieval": "text → image",
    "classify": "classification",
}
TIES = {"wrong": "tie is wrong", "first": "first wins", "expected": "1 / tied"}
_METRICS = {
    "i2t_accuracy": "Image → text",
    "t2i_accuracy": "Text → image",
    "accuracy": "Accuracy",
    "acc1": "Top-1 accuracy",
    "acc5": "Top-5 accuracy",
    "mean_per_class_recall": "Mean per-class recall",
    "class_mean_accuracy@1": "Class mean, top-1",
    "class_mean_accuracy@5": "Class mean, top-5",
    "box_accuracy@1": "All boxes, top-1",
}
_RECALL = re.compile(r"(text|image)_retrieval_recall@(\d+)")
_SHORT = {"obj": "object", "att": "attribute", "rel": "relation"}  # SugarCrepe's abbreviations
MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def words(name: str) -> str:
    """Return an identifier as words: ``"swap_obj"`` -> ``"Swap object"``; ``"macro"`` says of what it is."""
    if name == "macro":
        return "Macro average"
    parts = [_SHORT.get(part, part) for part in name.replace("/", " · ").split("_") if part]
    text = " ".join(parts)
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def split_name(name: str, benchmarks: Iterable[str] = ()) -> tuple[str, str, str]:
    """Split a metric's name into benchmark, subset (may hold slashes, may be empty) and metric.

    A benchmark's name may hold slashes too (``retrieval/flickr8k``): it is the longest of `benchmarks` that the metric's
    name begins with, else the first part.
    """
    known = [benchmark for benchmark in benchmarks if name.startswith(f"{benchmark}/")]
    benchmark = max(known, key=len) if known else name.partition("/")[0]
    subset, _, metric = name[len(benchmark) + 1 :].rpartition("/")
    return benchmark, subset, metric


def task_label(task: str) -> str:
    """Return a task's name as a reader knows it."""
    return TASKS.get(task, words(task).lower())


def metric_label(metric: str, siblings: Sequence[str] = ()) -> str:
    """Return the label of a metric's last name part; `siblings` are the others of its subset."""
    if metric == "accuracy" and {"i2t_accuracy", "t2i_accuracy"} <= set(siblings):
        return "Mean of both"
    if found := _RECALL.fullmatch(metric):
        return f"{'Image → text' if found[1] == 'text' else 'Text → image'}, R@{found[2]}"
    return _METRICS.get(metric) or words(metric)


def percent(value: float | None) -> str:
    """Return a proportion as a percentage without its sign: one decimal, two digits below one percent."""
    if value is None:
        return MISSING
    return f"{value * 100:.1f}" if value == 0 or abs(value) >= 0.01 else f"{value * 100:.2g}"


def points(value: float | None) -> str:
    """Return a difference of proportions in percentage points, with its sign (a true minus)."""
    if value is None:
        return MISSING
    text = f"{value * 100:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_value(value: float | None) -> str:
    """Return a p value with three decimals, or as smaller than the smallest of these."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def score(value: float | None) -> str:
    """Return a score or margin with four decimals and a true minus; tiny ones in powers of ten."""
    if value is None:
        return MISSING
    if 0 < abs(value) < 5e-5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", "−")
    return f"{value:.4f}".replace("-", "−")


def number(value: float | int | None) -> str:
    """Return a count with thousands separators; halves of ties keep one decimal."""
    if value is None:
        return MISSING
    value += 0.0  # no negative zero
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def plural(count: int, singular: str, many: str | None = None) -> str:
    """Return ``"1 case"``, ``"2,000 cases"``."""
    return f"{number(count)} {singular if count == 1 else many or singular + 's'}"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: ``"a, b and c"``."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else ""


def interval(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the bounds of a metric entry's confidence interval, whichever level it has."""
    bounds = next((entry[key] for key in ("ci95", "ci") if entry.get(key)), None)
    return (float(bounds[0]), float(bounds[1])) if bounds and None not in bounds else None
