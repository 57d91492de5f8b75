"""What a metric needs of its samples, in a form that merges exactly.

A float sum depends on the order of its terms. A state therefore keeps the distinct outcomes (cluster, category, hit,
chance) with integer multiplicities: merging adds integers, and sums are taken in one canonical order at the end. So any
split of the samples, merged in any order, gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fgray.metrics.ranking import chance_at_k, hit_at_k
from fgray.metrics.spec import Metric

NEAR_TIE = 1e-5  # margins below this may change sign between machines or batch sizes

_NEEDED = ["subset", "task", "excluded", "category", "cluster_id", "margin"]
_NEEDED += ["greater", "tied", "tied_before", "tied_positives", "num_candidates", "num_positives"]
_KEYS = ["category", "cluster_id", "hit", "chance"]
_SCHEMA = pa.schema(
    [
        pa.field("category", pa.string()),
        pa.field("cluster_id", pa.string()),
        pa.field("hit", pa.float64()),
        pa.field("chance", pa.float64()),
        pa.field("count", pa.int64()),
    ]
)


@dataclass(frozen=True)
class ClusterSums:
    """Sums per cluster, clusters sorted by id.

    Attributes:
        ids: C cluster ids.
        counts: float64 [C], scored samples.
        hits: float64 [C], sum of their hits.
    """

    ids: list[str]
    counts: NDArray[np.float64]
    hits: NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """Outcomes of the samples of one metric.

    Attributes:
        outcomes: distinct (category, cluster_id, hit, chance) of scored samples with their ``count``, sorted.
        ties: scored samples in which a wrong candidate has exactly the best right one's score, wherever that ranks.
        near_ties: scored samples whose best right and best wrong score differ by less than 1e-5.
        excluded: samples without a score.
    """

    outcomes: pa.Table
    ties: int
    near_ties: int
    excluded: int

    @classmethod
    def empty(cls) -> State:
        """Return the state of no samples."""
        return cls(_SCHEMA.empty_table(), 0, 0, 0)

    @classmethod
    def of(cls, samples: pa.Table, metric: Metric) -> State:
        """Reduce rows of ``SAMPLE_SCHEMA`` that belong to a metric's subset and task (others are ignored).

        Args:
            samples: any number of rows of one benchmark.
            metric: gives subset, task, k and tie policy.

        Returns:
            Their state; categories are kept only where the metric averages over them.
        """
        outcomes, *counts = outcomes_of(samples, metric)
        return cls(_condense(outcomes), *counts)

    def __add__(self, other: State) -> State:
        """Merge the states of two disjoint sets of samples."""
        outcomes = _condense(pa.concat_tables([self.outcomes, other.outcomes]))
        return State(outcomes, self.ties + other.ties, self.near_ties + other.near_ties, self.excluded + other.excluded)

    @property
    def count(self) -> int:
        """Scored samples."""
        return int(pc.sum(self.outcomes["count"]).as_py() or 0)

    @property
    def hits(self) -> float:
        """Sum of the hits, exactly rounded."""
        return float(self._total("hit"))

    @property
    def chance(self) -> float:
        """Mean chance level of the scored samples, exactly rounded."""
        return float(self._total("chance") / self.count)

    def _total(self, column: str) -> Fraction:
        values, inverse = np.unique(self.outcomes[column].to_numpy(), return_inverse=True)
        counts = np.bincount(inverse, weights=self.outcomes["count"].to_numpy(), minlength=len(values))
        return sum((Fraction(value) * int(count) for value, count in zip(values.tolist(), counts, strict=True)), Fraction())

    def clusters(self) -> ClusterSums:
        """Return counts and hits per cluster."""
        ids = self.outcomes["cluster_id"].combine_chunks().dictionary_encode()
        names = ids.dictionary.to_pylist()
        order = sorted(range(len(names)), key=names.__getitem__)
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names))
        index = place[ids.indices.to_numpy()]
        multiplicity = self.outcomes["count"].to_numpy().astype(np.float64)
        counts = np.bincount(index, weights=multiplicity, minlength=len(names)).astype(np.float64)
        hits = np.bincount(index, weights=multiplicity * self.outcomes["hit"].to_numpy(), minlength=len(names)).astype(np.float64)
        return ClusterSums([names[position] for position in order], counts, hits)

    def by_category(self) -> list[State]:
        """Return one state per category with a scored sample, sorted by category (null is one too); they hold outcomes only."""
        encoded = self.outcomes["category"].combine_chunks().dictionary_encode(null_encoding="encode")
        codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        bounds = np.searchsorted(codes, np.arange(len(names) + 1))  # outcomes are sorted by category, so codes ascend
        return [State(self.outcomes.slice(lo, hi - lo), 0, 0, 0) for lo, hi in zip(bounds[:-1], bounds[1:], strict=True)]


def outcomes_of(samples: pa.Table, metric: Metric) -> tuple[pa.Table, int, int, int]:
    """Return the outcomes of a metric's samples, one row each, and how many of them are ties, near ties, excluded; see `State.of`."""
    rows = samples.select(_NEEDED).filter(pc.and_(pc.equal(samples["subset"], metric.subset), pc.equal(samples["task"], metric.task)))
    scored = rows.filter(pc.is_null(rows["excluded"]))
    greater, tied, before, positives, candidates, right = (
        scored[name].to_numpy() for name in ("greater", "tied", "tied_before", "tied_positives", "num_candidates", "num_positives")
    )
    outcomes = pa.table(
        {
            "category": scored["category"] if metric.per_category else pa.nulls(len(scored), pa.string()),
            "cluster_id": scored["cluster_id"],
            "hit": hit_at_k(greater, tied, before, positives, metric.k, metric.ties),
            "chance": chance_at_k(candidates, right, metric.k),
            "count": np.ones(len(scored), dtype=np.int64),
        },
        schema=_SCHEMA,
    )
    near = np.abs(scored["margin"].to_numpy()) < NEAR_TIE
    return outcomes, int(np.count_nonzero(tied)), int(np.count_nonzero(near)), len(rows) - len(scored)


def merge(states: Iterable[State]) -> State:
    """Merge any number of states of disjoint samples."""
    found = list(states) or [State.empty()]
    outcomes = _condense(pa.concat_tables([state.outcomes for state in found]))
    return State(outcomes, *(sum(getattr(state, name) for state in found) for name in ("ties", "near_ties", "excluded")))


def _condense(outcomes: pa.Table) -> pa.Table:
    grouped = outcomes.group_by(_KEYS, use_threads=False).aggregate([("count", "sum")])
    table = pa.table([*(grouped[name] for name in _KEYS), grouped["count_sum"]], schema=_SCHEMA)
    return table.sort_by([(name, "ascending") for name in _KEYS]).combine_chunks()
