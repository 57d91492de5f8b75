"""Joins two runs on the cases that both were asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from fgray.config.schema import StatsConfig
from fgray.errors import DataError, did_you_mean
from fgray.metrics.spec import AnyMetric, from_dict
from fgray.runs import RunFolder

_KEYS = ("subset", "task", "case_id")
_FACTS = ("query", "pool", "labels", "num_candidates", "cluster_id", "category")  # what makes a case the same case, beside its keys


class RunData:
    """What a comparison reads of a run folder.

    Attributes:
        uri, name, model: which run it is.
        samples: rows of ``SAMPLE_SCHEMA``.
        benchmarks: what run.json says about each benchmark.
        definitions: benchmark -> its metrics.
        named_primary: metrics under ``primary`` of the run's config.
        stats: level, resamples and seed that the run used; None where run.json does not say.
    """

    def __init__(self, uri: str) -> None:
        folder = RunFolder(uri)
        self.uri = folder.uri
        content = folder.read_json(RunFolder.RUN)
        self.samples = folder.read_table(RunFolder.SAMPLES)
        try:
            self.name = str(content["name"])
            self.model = str(content["model"]["card"]["name"])
            self.benchmarks: Mapping[str, Any] = content["benchmarks"]
            self.definitions = {name: [from_dict(item) for item in facts["metrics"]] for name, facts in self.benchmarks.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"no run description of fgray ({error!r})", where=f"{uri}/{RunFolder.RUN}", fix="run the job again") from error
        self.named_primary = [str(name) for name in content.get("primary") or []]
        try:
            self.stats = StatsConfig.model_validate(content["stats"]) if "stats" in content else None
        except ValidationError as error:
            what = f"'stats' is not what a run writes ({error.errors()[0]['msg']})"
            raise DataError(what, where=f"{uri}/{RunFolder.RUN}", fix="run the job again") from error

    def metric_names(self) -> list[str]:
        """Return the names of all metrics, in the order of the report."""
        return [metric.name for metrics in self.definitions.values() for metric in metrics]


def shared_stats(first: RunData, second: RunData) -> StatsConfig:
    """Return the statistics settings of the first run, or the defaults where it has none.

    Raises:
        DataError: the runs' confidence levels differ.
    """
    if first.stats and second.stats and first.stats.level != second.stats.level:
        levels = f"the runs' confidence levels differ: {first.stats.level:g} and {second.stats.level:g}"
        raise DataError(levels, where=f"{first.uri}, {second.uri}", fix="run both with the same stats.level")
    return first.stats or StatsConfig()


def primary_metrics(first: RunData, second: RunData) -> set[str]:
    """Return the metrics that either run names as primary, else those that their benchmarks name.

    Raises:
        DataError: a named metric is in neither run.
    """
    named = {*first.named_primary, *second.named_primary}
    if not named:
        return {name for run in (first, second) for facts in run.benchmarks.values() for name in facts.get("primary", [])}
    known = {*first.metric_names(), *second.metric_names()}
    for name in sorted(named - known):
        raise DataError(f"primary metric '{name}' is in neither run", where="primary", fix=did_you_mean(name, known))
    return named


def shared_metrics(benchmark: str, first: RunData, second: RunData) -> list[AnyMetric]:
    """Return the metrics of a benchmark that both runs have.

    Raises:
        DataError: the runs define one of them differently.
    """
    others = {metric.name: metric for metric in second.definitions[benchmark]}
    metrics = [metric for metric in first.definitions[benchmark] if metric.name in others]
    for metric in metrics:
        if metric != others[metric.name]:
            fix = "run both with the same version of fgray and the same options"
            raise DataError(f"the runs define '{metric.name}' differently ({metric} / {others[metric.name]})", where=benchmark, fix=fix)
    return metrics


@dataclass(frozen=True)
class Pair:
    """The same cases in both runs.

    Attributes:
        a, b: rows of ``SAMPLE_SCHEMA`` that both runs scored, with the same keys in the same order.
        left_out: ``subset`` and ``task`` of the cases that one run could not score.
    """

    a: pa.Table
    b: pa.Table
    left_out: pa.Table


def paired_samples(benchmark: str, first: RunData, second: RunData) -> Pair:
    """Join a benchmark's samples of two runs.

    Raises:
        DataError: the runs have different cases, or different images under the same keys.
    """
    tables = []
    for run in (first, second):
        rows = run.samples.filter(pc.equal(run.samples["benchmark"], benchmark))
        tables.append(rows.sort_by([(key, "ascending") for key in _KEYS]).combine_chunks())
    keys = [set(zip(*(table[key].to_pylist() for key in _KEYS), strict=True)) for table in tables]
    if keys[0] != keys[1]:
        both = len(keys[0] & keys[1])
        problem = f"the runs have different cases: {len(keys[0])} in A, {len(keys[1])} in B, {both} in both"
        raise DataError(problem, where=benchmark, fix="evaluate both on the same data with the same limit")
    images = {run.benchmarks[benchmark].get("images", {}).get("fingerprint") for run in (first, second)}
    if len(images - {None}) > 1:
        raise DataError("the runs saw different images under the same keys", where=benchmark, fix="evaluate both on the same data")
    a, b = tables
    # Of a pool only the best candidates are listed, and those differ between models.
    small_a, small_b = (table.filter(pc.is_null(table["pool"])) for table in tables)
    for fact, one, other in (*((fact, a, b) for fact in _FACTS), ("candidates", small_a, small_b)):
        if not one[fact].equals(other[fact]):
            row = next(i for i, (x, y) in enumerate(zip(one[fact].to_pylist(), other[fact].to_pylist(), strict=True)) if x != y)
            where = f"{benchmark}, {one['subset'][row]}, {one['task'][row]}, {one['case_id'][row]}"
            raise DataError(f"the runs disagree about a case's {fact}", where=where, fix="evaluate both on the same data")
    scored = pc.and_(pc.is_null(a["excluded"]), pc.is_null(b["excluded"]))
    return Pair(a.filter(scored), b.filter(scored), a.filter(pc.invert(scored)).select(["subset", "task"]))
