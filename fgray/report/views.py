"""The numbers of a run arranged for reading: rows, groups of bars, controls, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fgray.report import wording


@dataclass(frozen=True)
class Row:
    """One metric as a reader sees it; `value` and the like are proportions, None where unknown."""

    name: str
    benchmark: str
    subset: str
    label: str
    kind: str  # metric | macro | pooled
    direction: str  # i2t | t2i | both: the hue of its bar
    value: float | None
    interval: tuple[float, float] | None
    chance: float | None
    correct: float | None
    count: int | None
    clusters: int | None
    ties: str  # the tie policy
    exact_ties: int
    near_ties: int
    excluded: int
    counted: bool  # enters a mean of the benchmark, or the benchmark has none; others are controls of the model
    published: dict[str, float] = field(default_factory=dict)

    @property
    def standing(self) -> str:
        """Where the interval lies against chance: above, below, level (chance inside it) or unknown."""
        if self.interval is None or self.chance is None:
            return "unknown"
        low, high = self.interval
        return "above" if low > self.chance else "below" if high < self.chance else "level"

    @property
    def title(self) -> str:
        """Subset and label in words."""
        return f"{wording.words(self.subset)}: {self.label[:1].lower()}{self.label[1:]}" if self.subset else self.label


@dataclass(frozen=True)
class Control:
    """A value that shows whether the data carries its attribute: a pixel oracle, shuffled labels, naming.

    `metric` names the metric beside which it stands; empty where there is none.
    """

    name: str
    metric: str
    subset: str
    kind: str
    value: float | None
    chance: float | None
    correct: float | None
    count: int | None
    note: str


@dataclass(frozen=True)
class Group:
    """The bars of one subset."""

    subset: str
    rows: list[Row]

    @property
    def control(self) -> bool:
        """Whether no mean of the benchmark counts these metrics: they are a control of the model."""
        return all(row.kind == "metric" and not row.counted for row in self.rows)


@dataclass(frozen=True)
class BenchmarkView:
    """One benchmark of the run."""

    name: str
    title: str
    official: bool
    info: Mapping[str, Any]
    groups: list[Group]
    headline: Row | None
    published: list[Mapping[str, Any]]
    controls: list[Control]

    @property
    def rows(self) -> list[Row]:
        """All metrics in the order of the report."""
        return [row for group in self.groups for row in group.rows]

    @property
    def control_kinds(self) -> list[str]:
        """The kinds of controls that stand beside the bars."""
        return list(dict.fromkeys(control.kind for control in self.controls if control.metric))

    @property
    def control_notes(self) -> dict[str, str]:
        """What each kind of control says, by kind; the first note of each."""
        return {control.kind: control.note for control in reversed(self.controls) if control.note}

    def control(self, kind: str, row: Row) -> Control | None:
        """Return the control of one kind beside one bar."""
        return next((control for control in self.controls if (control.kind, control.metric) == (kind, row.name)), None)


def benchmark_views(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[BenchmarkView]:
    """Arrange ``metrics.json`` by the benchmarks of ``run.json``.

    Args:
        run: content of run.json; a benchmark that it does not describe is shown by its name alone.
        metrics: content of metrics.json.
    """
    described: Mapping[str, Mapping[str, Any]] = run.get("benchmarks") or {}
    entries: Mapping[str, Mapping[str, Any]] = metrics.get("metrics") or {}
    controls: Mapping[str, Mapping[str, Any]] = metrics.get("controls") or {}
    owner = {name: wording.split_name(name, described)[0] for name in (*entries, *controls)}
    names = list(dict.fromkeys([*described, *(owner[name] for name in entries)]))
    return [
        _benchmark(
            benchmark,
            described.get(benchmark) or {},
            {name: entry for name, entry in entries.items() if owner[name] == benchmark},
            {name: entry for name, entry in controls.items() if owner[name] == benchmark},
        )
        for benchmark in names
    ]


def _benchmark(name: str, info: Mapping[str, Any], entries: Mapping[str, Any], controls: Mapping[str, Any]) -> BenchmarkView:
    definitions = {item["name"]: item for item in info.get("metrics") or []}
    ordered = [metric for metric in definitions if metric in entries] + [metric for metric in entries if metric not in definitions]
    official = bool(info.get("official"))
    published = [item for item in info.get("published") or [] if official and set(item.get("values") or {}) & entries.keys()]
    by_subset: dict[str, list[str]] = {}
    for metric in ordered:
        by_subset.setdefault(wording.split_name(metric, [name])[1], []).append(metric)
    shared = _Shared(
        name, published, {part for item in definitions.values() for part in item.get("parts") or ()}, str(info.get("ties") or "")
    )
    groups = []
    for subset, members in by_subset.items():
        siblings = [wording.split_name(metric, [name])[2] for metric in members]
        rows = [_row(metric, entries[metric], definitions.get(metric) or {}, siblings, shared) for metric in members]
        groups.append(Group(subset, rows))
    return BenchmarkView(
        name=name,
        title=str(info.get("title") or wording.words(name)),
        official=official,
        info=info,
        groups=groups,
        headline=_headline([row for group in groups for row in group.rows], info.get("primary") or []),
        published=published,
        controls=[_control(control, entry, name, ordered) for control, entry in controls.items()],
    )


class _Shared(NamedTuple):
    """What the rows of a benchmark share: its name, published tables, names of metrics that enter a mean, tie policy."""

    benchmark: str
    published: list[Mapping[str, Any]]
    parts: set[str]
    ties: str


def _row(
    name: str,
    entry: Mapping[str, Any],
    definition: Mapping[str, Any],
    siblings: list[str],
    shared: _Shared,
) -> Row:
    benchmark, subset, metric = wording.split_name(name, [shared.benchmark])
    return Row(
        name=name,
        benchmark=benchmark,
        subset=subset,
        label=wording.metric_label(metric, siblings),
        kind=str(definition.get("type") or "metric"),
        direction=_direction(metric),
        value=entry.get("value"),
        interval=wording.interval(entry),
        chance=entry.get("chance"),
        correct=entry.get("correct"),
        count=entry.get("count"),
        clusters=entry.get("clusters"),
        ties=str(definition.get("ties") or shared.ties),
        exact_ties=int(entry.get("ties") or 0),
        near_ties=int(entry.get("near_ties") or 0),
        excluded=int(entry.get("excluded") or 0),
        counted=not shared.parts or name in shared.parts,
        published={item["model"]: item["values"][name] for item in shared.published if name in item["values"]},
    )


def _direction(metric: str) -> str:
    if metric.startswith(("i2t", "text_retrieval")):
        return "i2t"
    return "t2i" if metric.startswith(("t2i", "image_retrieval")) else "both"


def _control(name: str, entry: Mapping[str, Any], benchmark: str, metrics: list[str]) -> Control:
    # A control of benchmark/subset/metric is called benchmark/subset/KIND_metric.
    _, subset, what = wording.split_name(name, [benchmark])
    suffixes = [last for _, group, last in (wording.split_name(metric, [benchmark]) for metric in metrics) if group == subset]
    suffix = max((item for item in suffixes if what.endswith("_" + item)), key=len, default="")
    return Control(
        name=name,
        metric=f"{name[: -len(what)]}{suffix}" if suffix else "",
        subset=subset,
        kind=wording.words(what.removesuffix("_" + suffix) if suffix else what),
        value=entry.get("value"),
        chance=entry.get("chance"),
        correct=entry.get("correct"),
        count=entry.get("count"),
        note=str(entry.get("note") or ""),
    )


def _headline(rows: list[Row], primary: list[str]) -> Row | None:
    """The one number of a benchmark: its mean over both directions and subsets, else its first primary metric, else its first."""
    whole = [row for row in rows if row.kind == "macro" and row.direction == "both" and row.subset == "macro"]
    chosen = [row for row in rows if row.name in primary]
    return next((row for row in [*whole, *chosen, *rows] if row.value is not None), None)


def verdict(model: str, views: list[BenchmarkView], level: float = 0.95) -> str:
    """Return one sentence: the headline of each benchmark against chance, and how many metrics lie above it."""
    told = [(view, view.headline) for view in views if view.headline]
    if not told:
        return f"{model} has no scored metric."
    if len(told) == 1:
        view, row = told[0]
        bounds = ""
        if row.interval:
            low, high = map(wording.percent, row.interval)
            bounds = f"{wording.percent(level).removesuffix('.0')} % interval {low}–{high}, "
        start = f"{model} scores {wording.percent(row.value)} % on “{view.title}” ({bounds}chance {wording.percent(row.chance)} %)"
    else:
        parts = [f"{wording.percent(row.value)} % on “{view.title}” (chance {wording.percent(row.chance)} %)" for view, row in told]
        start = f"{model} scores {wording.listed(parts)}"
    single = [row for view in views for row in view.rows if row.kind == "metric" and row.counted and row.standing != "unknown"]
    if not single:
        return start + "."
    above = [row for row in single if row.standing == "above"]
    if not above:
        return f"{start}; none of its {len(single)} single scores lies clearly above chance."
    best = max(above, key=lambda row: (row.value or 0.0) - (row.chance or 0.0))
    lead = f"{wording.points((best.value or 0.0) - (best.chance or 0.0))} points"
    much = (
        f"all {len(single)} single scores lie"
        if len(above) == len(single)
        else f"{len(above)} of {len(single)} single scores {'lies' if len(above) == 1 else 'lie'}"
    )
    return f"{start}; {much} clearly above chance, farthest in {best.title[:1].lower()}{best.title[1:]} ({lead})."
