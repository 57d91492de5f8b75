"""A second model's vote on candidates."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from fgray.config.schema import ModelConfig
from fgray.mining.candidates import Candidates, Sides
from fgray.mining.filters import Filter
from fgray.mining.resources import Resources
from fgray.models import ModelSource, open_model

BLOCK = 1 << 14  # pairs whose vectors are gathered at a time


class SecondModel(Filter):
    """Drops candidates that a second model takes for positives: within `margin` of the positive's score, or above `max_score`.

    Scores are that model's own cosines; one it cannot embed is not voted on. sentence-transformers' `cross_encoder` replaces the
    scores of the search instead, so that all other bounds then hold for the second model alone.
    """

    CURVES: ClassVar = {
        "margin": np.arange(-0.3, 0.301, 0.02).round(2).tolist(),
        "max_score": np.arange(-0.2, 1.001, 0.05).round(2).tolist(),
    }

    model: ModelConfig = Field(description="the second model, as in the job's own model section")
    margin: float | None = Field(
        0.0,
        description="smallest distance of the positive's score above the candidate's; null, where there are no positives: no such bound",
    )
    max_score: float | None = Field(None, description="highest cosine to the anchor that stays; null: no such bound", ge=-1, le=1)

    @field_validator("model")
    @classmethod
    def _must_embed(cls, model: ModelConfig) -> ModelConfig:
        if model.kind == "precomputed":
            raise ValueError("precomputed scores cannot embed anything new; use an encoder")
        return model

    @model_validator(mode="after")
    def _something_in_force(self) -> Self:
        if self.margin is None and self.max_score is None:
            raise ValueError("give margin or max_score")
        return self

    @cached_property
    def _source(self) -> ModelSource:
        return open_model(self.model)

    @property
    def needs_positive(self) -> bool:
        """Return whether a margin is in force."""
        return self.margin is not None

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> npt.NDArray[np.bool_]:
        """Return which candidates stay."""
        anchors = resources.embeddings(sides.anchors, self._source)
        scores = _cosines(anchors, candidates.anchor, resources.embeddings(sides.corpus, self._source), candidates.corpus)
        drop = np.zeros(len(candidates), bool)
        if self.max_score is not None:
            drop |= scores > self.max_score
        if self.margin is not None and sides.positives is not None:
            first = np.unique(candidates.row, return_index=True)[1]
            which = np.repeat(np.arange(len(first)), np.diff(first, append=len(candidates)))
            positives = resources.embeddings(sides.positives, self._source)
            drop |= scores > _cosines(anchors, candidates.anchor[first], positives, candidates.positive[first])[which] - self.margin
        return ~drop


def _cosines(
    left: npt.NDArray[np.float32], i: npt.NDArray[np.int64], right: npt.NDArray[np.float32], j: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    scores = np.empty(len(i))
    for start in range(0, len(i), BLOCK):
        part = slice(start, start + BLOCK)
        scores[part] = np.einsum("nd,nd->n", left[i[part]], right[j[part]])
    return scores
