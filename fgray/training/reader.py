"""Reads batches: by byte range, decoded by threads, ahead of the step that needs them; equal bytes for any number of threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.config.train import NegativesConfig, RegionsConfig
from fgray.data.decode import ImageError, decode_image
from fgray.errors import ConfigError, DataError
from fgray.models.preprocess import Preprocess
from fgray.training.augment import random_resized_crop
from fgray.training.batch import Batch
from fgray.training.choice import Choice, Chooser
from fgray.training.damage import DamagedImage
from fgray.training.order import Numbers, Order
from fgray.training.regions import Cut, Cutter
from fgray.training.sources import Source

Pixels = npt.NDArray[np.uint8]
_TASK = 8  # pictures that a thread reads and decodes at a time
_ASSEMBLERS = 2  # batches in the making at a time, so that the threads are busy when one ends


class Reader:
    """One rank's batches.

    Args:
        sources: what is trained on.
        order: which samples a step sees.
        preprocess: the model's own, as in evaluation.
        negatives: which hard negatives a sample brings.
        augment: ``none``, or ``random_resized_crop`` in place of the model's resize and crop.
        seed: of the choice of negatives and of crops.
        rank, world: this worker's number and how many there are.
        threads: that read and decode; Pillow decodes outside the interpreter lock.
        max_pixels: larger images count as damaged.
        tolerant: damaged images are replaced, see `Chooser.choose`, instead of refused.
        cache_bytes: memory for preprocessed pictures, which are then decoded once; without augmentation and regions only.
        regions: how the anchors' regions are seen; None: a batch brings none.
        wanted: of the features crop and region_text of regions those that a loss reads.

    Raises:
        ConfigError: the batch does not divide by the workers.

    """

    def __init__(
        self,
        sources: Sequence[Source],
        order: Order,
        preprocess: Preprocess,
        negatives: NegativesConfig,
        augment: Literal["none", "random_resized_crop"] = "none",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        max_pixels: int = 178_956_970,
        tolerant: bool = False,
        cache_bytes: int = 0,
        regions: RegionsConfig | None = None,
        wanted: frozenset[str] = frozenset({"crop", "region_text"}),
    ) -> None:
        if order.batch_size % world:
            what = f"a batch of {order.batch_size} samples does not divide by {world} workers"
            raise ConfigError(what, where="batch_size", fix="choose a multiple")
        self.sources, self.preprocess, self.rank, self.world = sources, preprocess, rank, world
        self.max_pixels, self.tolerant = max_pixels, tolerant
        self._reasons: dict[tuple[int, int], str] = {}  # (source, image) -> why it cannot be decoded
        self._met: dict[tuple[int, int], int] = {}  # -> the first step that chose it
        self._surveyed: set[int] = set()
        self._survey_lock = threading.Lock()
        self._chooser = Chooser(sources, order, negatives, seed, self._survey, regions)
        self._windows = augment == "random_resized_crop"
        self._cutter = None if regions is None else Cutter(regions, preprocess, wanted, self._windows)
        self._size = preprocess.size if self._cutter is None else (self._cutter.size, self._cutter.size)
        cached = not self._windows and self._cutter is None
        self._room = cache_bytes // (3 * preprocess.size[0] * preprocess.size[1]) if cached else 0  # pictures
        self._cache: dict[tuple[int, int], Pixels] = {}
        self._lock = threading.Lock()
        self._decoders = ThreadPoolExecutor(threads, "decode")
        self._assemblers = ThreadPoolExecutor(_ASSEMBLERS, "batch")

    def batch(self, step: int) -> Batch:
        """Return this rank's part of a step.

        Raises:
            DataError: an image is damaged, or too many to fill the batch, or a shard is not what its index says.
            StorageError: a shard cannot be read.
        """
        while True:  # until no picture of the choice is damaged; every round knows of at least one more
            choice = self._chooser.choose(step, self.rank, self.world)
            pixels, cuts, broken = self._read(choice)
            if not broken:
                self._meet(step, choice.met)
                return Batch(
                    images=pixels,
                    texts=choice.texts,
                    size=choice.size,
                    text_index=choice.text_index,
                    image_index=choice.image_index,
                    sources=choice.sources,
                    samples=choice.samples,
                    regions=None if self._cutter is None else self._cutter.join(cuts, self._region_texts(choice)),
                )
            self._note(broken)

    def prefetch(self, first: int, last: int, ahead: int = 2) -> Iterator[Batch]:
        """Yield the batches of the steps from `first` to `last` - 1, in order, and read up to `ahead` steps in advance.

        Up to `ahead` + 1 batches are held in memory.

        Raises:
            FgrayError: what `batch` raises, when its step is due.
        """
        waiting: deque[Future[Batch]] = deque()
        try:
            for step in range(first, last):
                while len(waiting) <= ahead and step + len(waiting) < last:
                    waiting.append(self._assemblers.submit(self.batch, step + len(waiting)))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def damaged(self, steps: int) -> list[DamagedImage]:
        """Return the damaged images that this rank's parts of the first `steps` steps chose.

        What all ranks return together is the same for any number of them, whatever was read ahead.
        """
        with self._lock:
            found = sorted(image for image, step in self._met.items() if step < steps)
            return [self._damaged_image(owner, image) for owner, image in found]

    def close(self) -> None:
        """Stop the threads; batches that are being read are finished first."""
        self._assemblers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, choice: Choice) -> tuple[Pixels, list[Cut | None], dict[tuple[int, int], str]]:
        """Return uint8 [N, H, W, 3], the regions of every anchor, and the damaged pictures, (source, image) -> reason."""
        pixels = np.empty((len(choice.images), *self._size, 3), np.uint8)
        cuts: list[Cut | None] = [None] * choice.size
        places = again = np.arange(len(pixels))
        if not self._windows:  # equal pictures are decoded once
            width = max(source.index.table.num_rows for source in self.sources)
            _, places, again = np.unique(choice.owners * width + choice.images, return_index=True, return_inverse=True)
        anchors: dict[int, list[int]] = {}  # of each picture that is decoded, those with regions
        for anchor in (number for number in range(choice.size) if len(choice.regions[number])):
            anchors.setdefault(int(places[again[anchor]]), []).append(anchor)
        tasks = []
        for owner in np.unique(choice.owners[places]).tolist():
            here = places[choice.owners[places] == owner]
            here = here[np.argsort(choice.images[here], kind="stable")]  # near ones of a shard are read together
            tasks += [
                self._decoders.submit(self._fill, pixels, cuts, anchors, owner, here[start : start + _TASK], choice)
                for start in range(0, len(here), _TASK)
            ]
        broken: dict[tuple[int, int], str] = {}
        try:
            for task in tasks:
                broken.update(task.result())
        finally:
            for task in tasks:
                task.cancel()
        copies = np.flatnonzero(places[again] != np.arange(len(pixels)))
        pixels[copies] = pixels[places[again][copies]]
        return pixels, cuts, broken

    def _fill(
        self, pixels: Pixels, cuts: list[Cut | None], anchors: dict[int, list[int]], owner: int, rows: Numbers, choice: Choice
    ) -> dict[tuple[int, int], str]:
        """Read, decode and preprocess some pictures of one source into their rows, and cut out their regions."""
        broken: dict[tuple[int, int], str] = {}
        fresh = []
        for row in rows.tolist():
            known = self._cache.get((owner, int(choice.images[row])))
            if known is None:
                fresh.append(row)
            else:
                pixels[row] = known
        if not fresh:
            return broken
        index = self.sources[owner].index
        encoded = index.read(index.table.take(pa.array(choice.images[fresh])))
        for row, data in zip(fresh, encoded, strict=True):
            try:
                image = decode_image(data, self.max_pixels)
            except ImageError as error:
                broken[owner, int(choice.images[row])] = str(error)
                continue
            if self._cutter is not None:
                pixels[row], placement = self._cutter.picture(image, int(choice.draws[row]))
                regions = self.sources[owner].regions
                for anchor in anchors.get(row, ()):
                    assert regions is not None
                    cuts[anchor] = self._cutter.cut(image, regions.boxes[choice.regions[anchor]], placement)
                continue
            pixels[row] = random_resized_crop(image, self.preprocess, int(choice.draws[row])) if self._windows else self.preprocess(image)
            if self._room:
                self._keep((owner, int(choice.images[row])), pixels[row])
        return broken

    def _region_texts(self, choice: Choice) -> list[list[str]]:
        """Return the captions of every anchor's chosen regions."""
        found = []
        for owner, numbers in zip(choice.sources.tolist(), choice.regions, strict=True):
            regions = self.sources[owner].regions
            found.append([] if regions is None else regions.captions.take(pa.array(regions.text_of[numbers])).to_pylist())
        return found

    def _keep(self, key: tuple[int, int], picture: Pixels) -> None:
        with self._lock:
            if len(self._cache) < self._room:
                self._cache[key] = picture.copy()

    def _note(self, broken: dict[tuple[int, int], str]) -> None:
        """Remember damaged images.

        Raises:
            DataError: there may be none.
        """
        with self._lock:
            for (owner, image), reason in sorted(broken.items()):
                self._reasons[owner, image] = reason
                self._chooser.damaged[owner][image] = True
                if not self.tolerant:
                    found = self._damaged_image(owner, image)
                    what = f"image '{found.key}' cannot be decoded ({reason})"
                    fix = "restore or remove it, or raise data.max_corrupt_fraction"
                    raise DataError(what, where=self.sources[owner].index.storage.address(found.shard), fix=fix)

    def _meet(self, step: int, images: set[tuple[int, int]]) -> None:
        with self._lock:
            for image in images:
                self._met[image] = min(step, self._met.get(image, step))

    def _damaged_image(self, owner: int, image: int) -> DamagedImage:
        source = self.sources[owner]
        row = source.index.table.slice(image, 1).to_pylist()[0]
        return DamagedImage(owner, source.name, row["key"], row["shard"], self._reasons[owner, image])

    def _survey(self, owner: int) -> None:
        """Look at every image of a source's pairs, once."""
        with self._survey_lock:
            if owner in self._surveyed:
                return
            source = self.sources[owner]
            images = np.unique(source.image_of)
            images = images[~self._chooser.damaged[owner][images]]
            parts = [images[start : start + _TASK] for start in range(0, len(images), _TASK)]
            for broken in self._decoders.map(lambda part: self._broken(owner, part), parts):
                self._note(broken)
            self._surveyed.add(owner)

    def _broken(self, owner: int, images: npt.NDArray[np.integer]) -> dict[tuple[int, int], str]:
        index = self.sources[owner].index
        broken: dict[tuple[int, int], str] = {}
        for image, data in zip(images.tolist(), index.read(index.table.take(pa.array(images))), strict=True):
            try:
                decode_image(data, self.max_pixels)
            except ImageError as error:
                broken[owner, image] = str(error)
        return broken
