"""Filters that look at scores, margins and ranks only, and the choice of the final negatives."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fgray.mining.candidates import Candidates, Sides
from fgray.mining.filters import Filter
from fgray.mining.resources import Resources

Mask = npt.NDArray[np.bool_]


def places(row: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each candidate's 0-based place within its row; equal rows stand together."""
    starts = np.flatnonzero(np.diff(row, prepend=row[:1] - 1))
    return np.arange(len(row)) - np.repeat(starts, np.diff(starts, append=len(row)))


class RangeMin(Filter):
    """Drops the first `value` candidates that reach it: the most similar ones may be positives in disguise.

    As in sentence-transformers, what earlier filters dropped is not counted. Placed first in the chain it counts ranks of
    the search itself.
    """

    value: int = Field(description="how many of the hardest candidates left are passed over", ge=0)

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        return places(candidates.row) >= self.value


class RangeMax(Filter):
    """Keeps the first `value` candidates that reach it.

    sentence-transformers counts positives of the anchor, too, as many as the anchor with most of them has; here what earlier filters
    dropped is not counted, so that after `same_image` every anchor has the same number of candidates.
    """

    THINS: ClassVar[bool] = True

    value: int = Field(description="how many of the hardest candidates left are looked at", ge=1)

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        return places(candidates.row) < self.value


class MinScore(Filter):
    """Drops candidates that score below `value`: too easy to teach anything."""

    CURVES: ClassVar = {"value": np.arange(-0.2, 1.001, 0.05).round(2).tolist()}

    value: float = Field(description="lowest cosine to the anchor that stays", ge=-1, le=1)

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        return candidates.score >= self.value


class MaxScore(Filter):
    """Drops candidates that score above `value`: so similar that they are likely positives."""

    CURVES: ClassVar = {"value": np.arange(-0.2, 1.001, 0.05).round(2).tolist()}

    value: float = Field(description="highest cosine to the anchor that stays", ge=-1, le=1)

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        return candidates.score <= self.value


class AbsoluteMargin(Filter):
    """Keeps candidates that score at least `value` below the positive.

    Of an anchor with several positives each row is held against its own; sentence-transformers holds all against the lowest.
    """

    CURVES: ClassVar = {"value": np.arange(-0.3, 0.301, 0.02).round(2).tolist()}

    value: float = Field(
        description="smallest distance of the positive's cosine above the candidate's; 0: not above the positive", ge=-2, le=2
    )

    @property
    def needs_positive(self) -> bool:
        """Return True."""
        return True

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay; none where the positive has no score."""
        return candidates.margin >= self.value


class RelativeMargin(Filter):
    """Keeps candidates that score at least the share `value` of the positive's score below it.

    That is score <= positive - |positive| * value (NV-Retriever's TopK-PercPos 95 % is 0.05). Of an anchor with several positives
    each row is held against its own; sentence-transformers holds all against the lowest.
    """

    CURVES: ClassVar = {"value": np.arange(0, 1.001, 0.05).round(2).tolist()}

    value: float = Field(description="smallest distance to the positive's cosine, as a share of its magnitude", ge=0, le=2)

    @property
    def needs_positive(self) -> bool:
        """Return True."""
        return True

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay; none where the positive has no score."""
        return candidates.margin >= self.value * np.abs(candidates.score + candidates.margin)


class NumNegatives(Filter):
    """Keeps at most `value` of the candidates that reach it: the hardest, or drawn at random.

    The draw of a row depends on the seed, its anchor, its positive and each candidate's key, and on nothing else.
    """

    THINS: ClassVar[bool] = True

    value: int = Field(description="negatives per row", ge=1)
    sampling_strategy: Literal["top", "random"] = Field("top", description="top: the hardest; random: drawn without replacement")
    seed: int = Field(0, description="seed of random draws", ge=0, lt=2**63)

    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> Mask:
        """Return which candidates stay."""
        if self.sampling_strategy == "top":
            return places(candidates.row) < self.value
        order = np.lexsort((self._draw(candidates, sides, resources), candidates.row))
        chosen = np.zeros(len(candidates), bool)
        chosen[order] = places(candidates.row[order]) < self.value
        return chosen

    def _draw(self, candidates: Candidates, sides: Sides, resources: Resources) -> npt.NDArray[np.uint64]:
        """Return a random number per candidate: its row's smallest are drawn."""
        positive = np.zeros(len(candidates), np.uint64)
        if sides.positives is not None:
            known = candidates.positive >= 0
            positive[known] = resources.digests(sides.positives)[candidates.positive[known]]
        state = _mix(np.full(len(candidates), self.seed, np.uint64))
        for digest in (resources.digests(sides.anchors)[candidates.anchor], positive, resources.digests(sides.corpus)[candidates.corpus]):
            state = _mix(state ^ digest)
        return state


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64 bits one to one: splitmix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
