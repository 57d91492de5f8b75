"""From samples to metrics, slice by slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from fgray.benchmarks.base import LoadedBenchmark
from fgray.config.schema import StatsConfig
from fgray.evaluation.controls import shuffled_controls
from fgray.evaluation.large import LargeSummary
from fgray.metrics.summary import build_trees, summarise
from fgray.runs import SAMPLE_SCHEMA

HELD_ROWS = 1 << 18  # samples of one benchmark that are reduced in memory: drawing their clusters takes half a minute


class Reducer:
    """Reduces the samples of one benchmark: in memory where they are few, else into mergeable sums of bounded size."""

    def __init__(self, loaded: LoadedBenchmark, stats: StatsConfig) -> None:
        self.loaded, self.stats = loaded, stats
        self.held: list[pa.Table] = []
        self.rows = 0
        self.large: LargeSummary | None = None

    def watch(self, slices: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass slices of rows of ``SAMPLE_SCHEMA`` on and reduce them on the way."""
        for samples in slices:
            self.add(samples)
            yield samples

    def add(self, samples: pa.Table) -> None:
        """Take in some samples."""
        self.rows += samples.num_rows
        if self.large is None and self.rows > HELD_ROWS:
            self.large = LargeSummary(self.loaded.metrics, self.stats)
            for earlier in self.held:
                self.large.add(earlier)
        if self.large is None:
            self.held.append(samples)
        else:
            self.large.add(samples)

    def check(self) -> None:
        """Refuse a metric without samples.

        Raises:
            DataError: there is one.
        """
        if self.large is None:
            build_trees(self._samples(), self.loaded.metrics)
        else:
            self.large.check()

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the entries of metrics.json."""
        if self.large is None:
            return summarise(self._samples(), self.loaded.metrics, self.stats)
        return self.large.entries()

    def controls(self) -> dict[str, dict[str, Any]]:
        """Return the control entries; labels are shuffled in what is held in memory, at most the first quarter of a million."""
        shuffled = shuffled_controls(self._samples(), self.loaded.metrics, self.stats.seed) if self.loaded.shuffled_control else {}
        return {**self.loaded.controls, **shuffled}

    def _samples(self) -> pa.Table:
        return pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *self.held])
