"""Which pairs take the places of those whose images are damaged: none that the step's global batch holds already.

A worker reads its own part of a step only, so it does not know which pairs of the other parts are damaged. The pairs outside the
global batch are therefore dealt out beforehand: in a cyclic order that starts elsewhere in every step, the p-th place of the batch
owns every c-th of them from the p-th on, where c is the number of places. Two places own no pair in common, so each worker can tell
alone what a place takes. Only where all that a place owns is damaged, which needs a source of few batches or much damage, all images
of the source are looked at; then the places that are left take what no other place has taken, in order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fgray.errors import DataError
from fgray.training.order import Numbers

Unreadable = Callable[[Numbers], npt.NDArray[np.bool_]]


def replace_unreadable(
    name: str,
    size: int,
    batch: Numbers,
    mine: npt.NDArray[np.bool_],
    start: int,
    unreadable: Unreadable,
    survey: Callable[[], None],
) -> tuple[Numbers, Numbers]:
    """Return the pairs of some places, int64 [m], and the unreadable ones that they ran into.

    Args:
        name: of the source.
        size: pairs of the source.
        batch: the source's pairs in the global batch of a step, int64 [c].
        mine: bool [c], the m places that are asked for.
        start: where the order of the other pairs starts.
        unreadable: tells of pairs, int64 [n], whether their images are known to be damaged, bool [n].
        survey: looks at all images of the source; afterwards `unreadable` knows all.

    Raises:
        DataError: too few pairs are readable to fill the batch.
    """
    outside = _Outside(size, batch, start)
    broken = np.flatnonzero(unreadable(batch) & mine)
    taken, met = batch.copy(), [batch[broken]]
    exhausted = False
    for place in broken.tolist():
        own = outside.take(np.arange(place, outside.count, len(batch)))
        tried = _leading(unreadable(own))
        met.append(own[:tried])
        exhausted |= tried == len(own)
        if tried < len(own):
            taken[place] = own[tried]
    if exhausted:
        survey()
        taken = _deal(name, batch, outside, unreadable)
        everything = np.arange(size)
        met.append(everything[unreadable(everything)])
    return taken[mine], np.unique(np.concatenate(met))


def _deal(name: str, batch: Numbers, outside: _Outside, unreadable: Unreadable) -> Numbers:
    """Return the pairs of all places where every image of the source is known."""
    taken, left = batch.copy(), []
    others = outside.take(np.arange(outside.count))
    free = ~unreadable(others)
    for place in np.flatnonzero(unreadable(batch)).tolist():
        own = np.arange(place, len(others), len(batch))
        tried = _leading(unreadable(others[own]))
        if tried == len(own):
            left.append(place)
        else:
            taken[place], free[own[tried]] = others[own[tried]], False
    spare = others[free]
    if len(spare) < len(left):
        what = f"{len(left) - len(spare)} of the {len(batch)} pairs of a batch have damaged images, and no other pair is left for them"
        raise DataError(what, where=name, fix="restore the files, or make batch_size smaller")
    taken[left] = spare[: len(left)]
    return taken


def _leading(flags: npt.NDArray[np.bool_]) -> int:
    """Return how many flags are set before the first that is not."""
    clear = np.flatnonzero(~flags)
    return int(clear[0]) if len(clear) else len(flags)


class _Outside:
    """The `count` pairs that a batch does not hold, in cyclic order, without a list of them."""

    def __init__(self, size: int, batch: Numbers, start: int) -> None:
        held = np.unique(batch)  # where a pass ends in the batch, it may hold a pair of both passes
        self.count, self._start = size - len(held), start
        self._shifts = held - np.arange(len(held))

    def take(self, places: Numbers) -> Numbers:
        """Return the pairs at places in the order, int64 [n]."""
        number = (self._start + places) % max(self.count, 1)
        return number + np.searchsorted(self._shifts, number, side="right")
