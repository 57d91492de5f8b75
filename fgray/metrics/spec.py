"""How a benchmark says which numbers it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from fgray.errors import DataError, did_you_mean

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

_TYPES: dict[str, type[AnyMetric]] = {"metric": Metric, "macro": Macro, "pooled": Pooled}


def to_dict(metric: AnyMetric) -> dict[str, Any]:
    """Return a metric's definition as JSON values: its fields, and ``type`` (metric, macro or pooled)."""
    kind = next(name for name, cls in _TYPES.items() if isinstance(metric, cls))
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(metric).items()}
    return {"type": kind, **plain}


def from_dict(content: Mapping[str, Any]) -> AnyMetric:
    """Rebuild a metric from what `to_dict` returned.

    Raises:
        DataError: the type or a field is unknown, or a field without a default is missing.
    """
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    kind = str(values.pop("type", ""))
    where = f"metric {content.get('name', '?')}"
    if kind not in _TYPES:
        raise DataError(f"unknown metric type '{kind}'", where=where, fix=did_you_mean(kind, _TYPES))
    known = [item.name for item in fields(_TYPES[kind])]
    for name in values:
        if name not in known:
            raise DataError(f"a {kind} has no field '{name}'", where=where, fix=did_you_mean(name, known))
    try:
        return _TYPES[kind](**values)
    except TypeError as error:
        raise DataError(f"a {kind} is incomplete ({error})", where=where, fix="write run.json again by running the job") from error
