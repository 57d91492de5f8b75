"""The survivors of the filters that are most likely to be false negatives, for a reader's eye."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from fgray.mining.candidates import Candidates


class Riskiest:
    """Collects the riskiest survivors of a run, block by block; neither order nor size of the blocks changes the outcome.

    The rule: the smaller the margin to the positive, the riskier; where rows have no positive, the higher the score. Ties go
    by score, then by row numbers. An anchor is shown once, with its riskiest survivor.

    Args:
        count: how many are kept.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._found: Candidates | None = None

    def add(self, survivors: Candidates) -> None:
        """Take the survivors of one block (or of any set of whole or partial rows)."""
        found = survivors if self._found is None else _joined(self._found, survivors)
        risk = np.where(np.isnan(found.margin), -found.score, found.margin)
        order = np.lexsort((found.positive, found.corpus, found.anchor, -found.score, risk))
        _, first = np.unique(found.anchor[order], return_index=True)  # of each anchor its first in that order
        self._found = found.take(order[np.sort(first)[: self._count]])

    def survivors(self) -> Candidates | None:
        """Return them, the riskiest first; None where nothing was added."""
        return self._found


def _joined(one: Candidates, other: Candidates) -> Candidates:
    return Candidates(**{f.name: np.concatenate([getattr(one, f.name), getattr(other, f.name)]) for f in fields(Candidates)})
