"""Blind accuracy: how often a language model that sees no image prefers the right caption to its negative.

A set that a blind model solves is no test: half right is what a set of plausible negatives gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fgray.config.schema import StatsConfig
from fgray.metrics.ranking import rank_counts_matrix
from fgray.metrics.spec import AnyMetric, Metric, Pooled
from fgray.metrics.summary import summarise

PER_TOKEN, SUM = "accuracy", "sum_accuracy"  # last part of the metrics' names, by what is compared


class Likelihood(NamedTuple):
    """Log-likelihood of a text.

    Attributes:
        total: sum over its tokens, in nats.
        tokens: how many.
    """

    total: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Return the mean over tokens, which does not punish length."""
        return self.total / self.tokens


class BlindPair(NamedTuple):
    """A caption and one of its negatives, as a language model sees them."""

    generator: str
    type: str
    anchor: str
    positive: Likelihood
    negative: Likelihood


def blind_accuracy(pairs: Sequence[BlindPair], stats: StatsConfig) -> dict[str, dict[str, Any]]:
    """Return the share of pairs whose right caption is likelier, an exact tie counting half.

    Args:
        pairs: at least one.
        stats: confidence level, resamples and seed; captions are the clusters.

    Returns:
        ``blind/GENERATOR/TYPE/accuracy`` compares log-likelihood per token, ``…/sum_accuracy`` its sum, which favours the shorter
        text; ``blind/GENERATOR/accuracy`` and ``blind/accuracy`` pool their negatives. Entries are those of metrics.json, with
        their interval; chance is one half.
    """
    groups = sorted({(pair.generator, pair.type) for pair in pairs})
    metrics: list[AnyMetric] = []
    for task in (PER_TOKEN, SUM):
        metrics += [Metric(f"blind/{generator}/{kind}/{task}", f"{generator}/{kind}", task, ties="expected") for generator, kind in groups]
        for name in sorted({generator for generator, _ in groups}):
            metrics.append(Pooled(f"blind/{name}/{task}", tuple(f"blind/{g}/{kind}/{task}" for g, kind in groups if g == name)))
        metrics.append(Pooled(f"blind/{task}", tuple(f"blind/{generator}/{kind}/{task}" for generator, kind in groups)))
    return summarise(pa.concat_tables([_samples(pairs, PER_TOKEN), _samples(pairs, SUM)]), metrics, stats)


def _samples(pairs: Sequence[BlindPair], task: str) -> pa.Table:
    """Return what the metrics read of ``SAMPLE_SCHEMA``: candidate 0 is the right caption, candidate 1 its negative."""
    texts = [(pair.positive, pair.negative) for pair in pairs]
    scores = [[text.per_token if task == PER_TOKEN else text.total for text in both] for both in texts]
    ranks = rank_counts_matrix(np.asarray(scores, np.float64), [[0]] * len(pairs))
    count = len(pairs)
    return pa.table(
        {
            "benchmark": pa.array(["blind"] * count, pa.string()),
            "subset": pa.array([f"{pair.generator}/{pair.type}" for pair in pairs], pa.string()),
            "task": pa.array([task] * count, pa.string()),
            "cluster_id": pa.array([pair.anchor for pair in pairs], pa.string()),
            "category": pa.nulls(count, pa.string()),
            "num_candidates": pa.array([2] * count, pa.int32()),
            "num_positives": pa.array([1] * count, pa.int32()),
            **{name: pa.array(column) for name, column in ranks._asdict().items()},
            "excluded": pa.nulls(count, pa.string()),
        }
    )
