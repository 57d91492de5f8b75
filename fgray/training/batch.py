"""What one rank computes in one step: images, texts, and which of them are whose negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RegionBatch:
    """The M regions of a batch's anchors, anchor by anchor; an image without a valid box brings none.

    Attributes:
        boxes: float32 [M, 4], x0, y0, x1, y1 in fractions of the anchor's picture.
        image_of: int64 [M], position of the anchor, ascending.
        texts: M captions; None: no loss reads them.
        crops: uint8 [M, S, S, 3], the enlarged boxes cut out of the original picture; None: no loss reads them.
    """

    boxes: npt.NDArray[np.float32]
    image_of: Numbers
    texts: list[str] | None
    crops: npt.NDArray[np.uint8] | None

    def part(self, start: int, stop: int) -> RegionBatch:
        """Return the regions of the anchors from `start` to `stop` - 1, which get the numbers from 0 on."""
        first, last = np.searchsorted(self.image_of, [start, stop])
        crops = None if self.crops is None else self.crops[first:last]
        texts = None if self.texts is None else self.texts[first:last]
        return RegionBatch(self.boxes[first:last], self.image_of[first:last] - start, texts, crops)


@dataclass(frozen=True)
class Batch:
    """B pairs with up to K negative texts and J negative images each.

    Attributes:
        images: uint8 [N, H, W, 3]; the B anchors' images, then the negative images that there are, anchor by anchor.
        texts: the B captions, then the negative texts that there are, anchor by anchor.
        size: B.
        text_index: int64 [B, K], position in `texts` of each negative text; -1: none.
        image_index: int64 [B, J], position in `images` of each negative image; -1: none.
        sources: int64 [B], number of the source of each pair.
        samples: int64 [B], number of each pair in its source.
        regions: of the anchors' images; None: the run has none.
    """

    images: npt.NDArray[np.uint8]
    texts: list[str]
    size: int
    text_index: Numbers
    image_index: Numbers
    sources: Numbers
    samples: Numbers
    regions: RegionBatch | None = None

    def micro(self, size: int) -> list[Batch]:
        """Return consecutive parts of `size` pairs with their negatives and regions; the last may be smaller.

        Raises:
            ValueError: `size` is not positive.
        """
        if size < 1:
            raise ValueError(f"no micro-batches of {size} pairs")
        return [self._part(start, min(start + size, self.size)) for start in range(0, self.size, size)]

    def _part(self, start: int, stop: int) -> Batch:
        if (start, stop) == (0, self.size):
            return self
        text_rows, text_index = _select(self.text_index, start, stop)
        image_rows, image_index = _select(self.image_index, start, stop)
        return Batch(
            images=np.concatenate([self.images[start:stop], self.images[image_rows]]),
            texts=self.texts[start:stop] + [self.texts[row] for row in text_rows],
            size=stop - start,
            text_index=text_index,
            image_index=image_index,
            sources=self.sources[start:stop],
            samples=self.samples[start:stop],
            regions=None if self.regions is None else self.regions.part(start, stop),
        )


def _select(index: Numbers, start: int, stop: int) -> tuple[Numbers, Numbers]:
    """Return the rows that a part's negatives stand in, and its index with their new places."""
    part = index[start:stop]
    there = part >= 0
    return part[there], place(there)


def place(there: npt.NDArray[np.bool_]) -> Numbers:
    """Return the index array of negatives that follow B anchors in order: bool [B, K] -> int64 [B, K], -1 where there is none."""
    numbers = len(there) + np.cumsum(there.reshape(-1), dtype=np.int64).reshape(there.shape) - 1
    return np.where(there, numbers, -1)
