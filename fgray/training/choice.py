"""Which pairs, negatives and regions a rank's part of a step consists of; nothing is read here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgray.config.train import NegativesConfig, RegionsConfig
from fgray.errors import DataError
from fgray.training.batch import place
from fgray.training.hard_negatives import NONE
from fgray.training.order import Numbers, Order, mix
from fgray.training.region_sampling import choose_boxes
from fgray.training.replacement import replace_unreadable
from fgray.training.sources import Source

_REPLACEMENT, _TEXTS, _IMAGES, _PARTNER, _CROP = range(-5, 0)  # what random bits are for


@dataclass(frozen=True)
class Choice:
    """A rank's part of a step before its images are read; texts and index arrays are those of `Batch`.

    Attributes:
        owners: int64 [N], number of the source of each picture of the batch.
        images: int64 [N], number of the picture in its source.
        draws: uint64 [N], random bits of the picture's crop.
        regions: of every anchor, int64 [n], numbers of regions in its source.
        met: damaged images that were chosen first, (source, image); which ones depends on the data alone once all of them are known.
    """

    texts: list[str]
    size: int
    text_index: Numbers
    image_index: Numbers
    sources: Numbers
    samples: Numbers
    owners: Numbers
    images: Numbers
    draws: npt.NDArray[np.uint64]
    regions: list[Numbers]
    met: set[tuple[int, int]]


class Chooser:
    """Chooses; a pure function of seed, epoch, source and sample, and of which images are damaged.

    Args:
        sources: what is trained on.
        order: which samples a step sees.
        config: which hard negatives they bring.
        seed: seed of the choice and of crops.
        survey: finds every damaged image of a source's pairs, whose number it gets, and notes it in `damaged`.
        regions: how many regions an image brings; None: none.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        order: Order,
        config: NegativesConfig,
        seed: int,
        survey: Callable[[int], None],
        regions: RegionsConfig | None = None,
    ) -> None:
        self.sources, self.order, self.config, self.seed, self.regions = sources, order, config, seed, regions
        self.survey = survey
        self.damaged = [np.zeros(source.index.table.num_rows, bool) for source in sources]
        self._columns = [source.columns(config) for source in sources]

    def choose(self, step: int, rank: int, world: int) -> Choice:
        """Return what rank `rank` of `world` computes in a step.

        A pair whose image is damaged gives its place to a pair of its source that the global batch does not hold, see
        `fgray.training.replacement`, a damaged negative image to none. A damaged image of ``image_pairs`` gives its place to the next
        pair of another image that the batch does not hold before replacement, where there is one; it may be a partner
        elsewhere, as may what is drawn.

        Raises:
            DataError: too few images of a source are readable.
        """
        part = self.order.batch_size // world
        rows = slice(rank * part, (rank + 1) * part)
        whole = self.order.samples(step)
        met: set[tuple[int, int]] = set()
        source, sample, epoch = whole[0][rows], self._anchors(step, whole[0], whole[1], rows, met), whole[2][rows]
        if self.config.image_pairs:
            held = set(zip(whole[0].tolist(), whole[1].tolist(), strict=True))
            partner = np.array(
                [
                    self._readable_partner(row[0], self._partner(*row), row[1], held, met)
                    for row in zip(source.tolist(), sample.tolist(), epoch.tolist(), strict=True)
                ]
            )
            source, epoch = np.repeat(source, 2), np.repeat(epoch, 2)
            sample = np.stack([sample, partner], axis=1).reshape(-1)
        texts = np.full((len(source), self.config.texts), -1, np.int64)
        images = np.full((len(source), self.config.images), -1, np.int64)
        own_texts, own_images = np.empty_like(source), np.empty_like(source)
        for number in np.unique(source).tolist():
            here, one = source == number, self.sources[number]
            own_texts[here], own_images[here] = one.text_of[sample[here]], one.image_of[sample[here]]
            draw = (number, sample[here], epoch[here])
            texts[here] = one.text_negatives.choose(sample[here], self._columns[number], (self.seed, _TEXTS, *draw))
            chosen = one.image_negatives.choose(sample[here], [None] * self.config.images, (self.seed, _IMAGES, *draw))
            broken = (chosen >= 0) & self.damaged[number][chosen]
            met.update((number, image) for image in chosen[broken].tolist())
            images[here] = np.where(broken, -1, chosen)
        row, slot = np.nonzero(images >= 0)
        owner, which, slots = np.concatenate([source, source[row]]), np.concatenate([np.arange(len(source)), row]), _slots(source, slot)
        of_text = np.concatenate([source, source[np.nonzero(texts >= 0)[0]]])
        numbers = np.concatenate([own_texts, texts[texts >= 0]])
        return Choice(
            texts=[self.sources[s].texts[number].as_py() for s, number in zip(of_text.tolist(), numbers.tolist(), strict=True)],
            size=len(source),
            text_index=place(texts >= 0),
            image_index=place(images >= 0),
            sources=source,
            samples=sample,
            owners=owner,
            images=np.concatenate([own_images, images[row, slot]]),
            draws=mix(self.seed, _CROP, owner, sample[which], epoch[which], slots),
            regions=self._regions(source, sample, epoch),
            met=met,
        )

    def _regions(self, source: Numbers, sample: Numbers, epoch: Numbers) -> list[Numbers]:
        """Return the regions of each anchor, drawn anew in every pass."""
        chosen = []
        for number, which, passed in zip(source.tolist(), sample.tolist(), epoch.tolist(), strict=True):
            one = self.sources[number]
            if one.regions is None or self.regions is None:
                chosen.append(NONE)
                continue
            image = int(one.image_of[which])
            boxes, first = one.regions.of(image), self.regions.take_then_filter
            taken = choose_boxes(boxes, self.regions.most, self.seed, passed, number, which, take_then_filter=first)
            chosen.append(one.regions.offsets[image] + taken)
        return chosen

    def _partner(self, source: int, sample: int, epoch: int) -> int:
        """Return a pair of a hard image; where the sample has none, of any other image.

        Raises:
            DataError: the source has one image only.
        """
        one = self.sources[source]
        offsets, pairs = one.pairs_of_image
        hard = one.image_negatives.of(sample)
        hard = hard[offsets[hard + 1] > offsets[hard]]  # some have no caption
        if not len(hard):
            first, last = offsets[one.image_of[sample]], offsets[one.image_of[sample] + 1]
            others = len(pairs) - (last - first)
            if not others:
                raise DataError("a source of one image has no hard image for its pairs", where=one.name, fix="add images")
            number = self._draw(others, source, sample, epoch)
            return int(pairs[number if number < first else number + last - first])
        image = hard[self._draw(len(hard), source, sample, epoch)]
        return int(pairs[offsets[image] + self._draw(int(offsets[image + 1] - offsets[image]), source, sample, epoch, 1)])

    def _draw(self, count: int, *parts: int) -> int:
        return int(mix(self.seed, _PARTNER, *parts)[0] % np.uint64(count))

    def _anchors(self, step: int, source: Numbers, sample: Numbers, rows: slice, met: set[tuple[int, int]]) -> Numbers:
        """Return the samples of some rows of the global batch, replaced where their images are known to be damaged."""
        mine = np.zeros(len(source), bool)
        mine[rows] = True
        found = sample.copy()
        for number in np.unique(source[rows]).tolist():
            one, bad = self.sources[number], self.damaged[number]
            if not bad.any():
                continue
            here = source == number
            found[here & mine], skipped = replace_unreadable(
                one.name,
                len(one),
                sample[here],
                mine[here],
                int(mix(self.seed, _REPLACEMENT, number, step)[0] % np.uint64(len(one))),
                lambda pairs, one=one, bad=bad: bad[one.image_of[pairs]],  # type: ignore[misc]
                lambda number=number: self.survey(number),  # type: ignore[misc]
            )
            met.update((number, image) for image in one.image_of[skipped].tolist())
        return found[rows]

    def _readable_partner(self, source: int, partner: int, anchor: int, held: set[tuple[int, int]], met: set[tuple[int, int]]) -> int:
        """Return the pair itself, or the next of another image than the anchor's that is not known to be damaged.

        Raises:
            DataError: the anchor's image is the only one that is readable.
        """
        one, bad = self.sources[source], self.damaged[source]
        if not bad[one.image_of[partner]]:
            return partner
        second = None  # a pair that the batch holds is better than none
        for step in range(len(one)):
            pair = (partner + step) % len(one)
            image = int(one.image_of[pair])
            if bad[image]:
                met.add((source, image))
            elif image != one.image_of[anchor]:
                if (source, pair) not in held:
                    return pair
                second = pair if second is None else second
        if second is None:
            raise DataError("only one image of a source is readable", where=one.name, fix="restore the files")
        return second


def _slots(source: Numbers, slot: Numbers) -> Numbers:
    """Return 0 for every anchor, 1 + its column for every negative image."""
    return np.concatenate([np.zeros(len(source), np.int64), slot + 1])
