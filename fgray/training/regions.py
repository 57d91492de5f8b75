"""The regions of a source's images: which ones a step takes, and how picture, boxes and crops become its arrays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fgray.config.train import RegionsConfig, RegionSource
from fgray.data.captioned_boxes import BOX_SCHEMA, read_captioned_boxes, read_plain_boxes
from fgray.data.geometry import Boxes, Pixels, Placement, clip_boxes, corners_of, crop_picture, place_window, resize_picture
from fgray.errors import ConfigError, DataError
from fgray.models.preprocess import Preprocess
from fgray.storage import open_storage
from fgray.training.augment import random_resized_crop, random_window
from fgray.training.batch import RegionBatch
from fgray.training.hard_negatives import Numbers, numbers_in
from fgray.training.region_sampling import LEAST_SIDE, MOST_SIDE, usable

MIN_VISIBLE = 0.5  # share of a box that a random window must leave; a smaller rest hardly shows what the caption says


@dataclass(frozen=True)
class Regions:
    """The regions of N images.

    Attributes:
        offsets: int64 [N + 1]; image i has the regions from offsets[i] to offsets[i + 1].
        boxes: float64 [R, 4], x, y, width, height in pixels of the decoded picture.
        text_of: int32 [R], number of the caption.
        captions: distinct ones.
    """

    offsets: Numbers
    boxes: Boxes
    text_of: npt.NDArray[np.int32]
    captions: pa.Array

    def __len__(self) -> int:
        return len(self.boxes)

    def of(self, image: int) -> Boxes:
        """Return the boxes of an image, [n, 4]."""
        return self.boxes[self.offsets[image] : self.offsets[image + 1]]

    @cached_property
    def content(self) -> bytes:
        """What of them decides a training, as bytes."""
        arrays = (self.offsets, self.boxes, self.text_of)
        return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays) + json.dumps(self.captions.to_pylist()).encode()


def build_regions(table: pa.Table, keys: pa.ChunkedArray | pa.Array, where: str) -> Regions:
    """Number the regions of images; those of other images are left out.

    Args:
        table: rows of `BOX_SCHEMA`.
        keys: of the images, in the order of their numbers.
        where: they come from, for messages.

    Raises:
        DataError: none is left, or none is of a usable size.
    """
    image = numbers_in(table["image"], keys)
    rows = np.flatnonzero(image >= 0)
    if not len(rows):
        raise DataError("no region is of an image of the pairs", where=where, fix="both must name images alike: paths without ending")
    rows = rows[np.argsort(image[rows], kind="stable")]
    boxes = np.stack([table[name].to_numpy()[rows] for name in "xywh"], axis=1)
    if not usable(boxes).any():
        what = f"no region has an area between {LEAST_SIDE}² and {MOST_SIDE}² px"
        raise DataError(what, where=where, fix="boxes are x, y, width and height in pixels of the original picture")
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(np.bincount(image[rows], minlength=len(keys)), out=offsets[1:])
    texts = table["text"].combine_chunks().take(pa.array(rows)).dictionary_encode()
    return Regions(offsets, boxes, texts.indices.to_numpy().astype(np.int32), texts.dictionary)


def check_captions(all_regions: Iterable[Regions | None], needs: frozenset[str]) -> None:
    """Refuse regions without captions where a loss reads captions.

    Raises:
        ConfigError: that is so.
    """
    bare = any("" in regions.captions.to_pylist() for regions in all_regions if regions is not None)
    if bare and "region_text" in needs:
        fix = "give captions or a template, or leave the loss' term out (fineclip: terms: gc+sd)"
        raise ConfigError("a loss reads captions of regions, and some have none", where="sources.regions", fix=fix)


def read_regions(source: RegionSource) -> pa.Table:
    """Return rows of `BOX_SCHEMA`; empty texts where the source asks for boxes without captions.

    Raises:
        DataError: the file is damaged, or a box has no caption.
        NotFound: there is no such file.
    """
    if source.boxes.endswith(".json") and source.captions is None and source.template is None:
        return read_plain_boxes(source.boxes)
    if source.boxes.endswith(".json"):
        return read_captioned_boxes(source.boxes, source.captions, source.template or "{}", LEAST_SIDE**2)
    folder, _, name = source.boxes.rpartition("/")
    storage = open_storage(folder or ("/" if source.boxes.startswith("/") else "."))
    fix = "write columns image, x, y, w, h and text, without gaps"
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(name)))
        missing = [column for column in BOX_SCHEMA.names if column not in table.column_names]
        if missing:
            raise DataError(f"column '{missing[0]}' is missing", where=source.boxes, fix=fix)
        return table.select(BOX_SCHEMA.names).cast(BOX_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"no readable regions ({str(error).splitlines()[0]})", where=source.boxes, fix=fix) from error


@dataclass(frozen=True)
class Cut:
    """What a picture's chosen regions became.

    Attributes:
        kept: int64 [n], positions of those regions that lie in the picture, among the chosen ones.
        boxes: float32 [n, 4], in fractions of the model's input.
        crops: n pictures uint8 [S, S, 3]; none where no loss reads them.
    """

    kept: Numbers
    boxes: npt.NDArray[np.float32]
    crops: list[Pixels]


class Cutter:
    """Turns decoded pictures and their boxes into what a step takes of them.

    Args:
        config: size, resize mode and enlargement.
        preprocess: the model's own: crops have its size, pictures too where `config` names none.
        wanted: of the features crop and region_text those that a loss reads.
        windows: pictures are random windows (augment: random_resized_crop), and boxes follow.
    """

    def __init__(self, config: RegionsConfig, preprocess: Preprocess, wanted: frozenset[str], windows: bool) -> None:
        self.config, self.wanted, self.windows = config, wanted, windows
        self.crop_size = preprocess.size[0]
        self.size = config.image_size or preprocess.size[0]
        self._preprocess = dataclasses.replace(preprocess, size=(self.size, self.size), resize="squash")

    def picture(self, image: Image.Image, draw: int) -> tuple[Pixels, Placement]:
        """Return the model's input, uint8 [size, size, 3], and where the picture lies in it; a window is drawn by `draw`."""
        if not self.windows:
            return resize_picture(image, self.size, self.config.resize)
        window = random_window(image, draw)
        return random_resized_crop(image, self._preprocess, draw), place_window(window, (self.size, self.size))

    def cut(self, image: Image.Image, boxes: Boxes, placement: Placement) -> Cut:
        """Return the boxes [n, 4] (x, y, width, height) of a picture as they lie in its input, and their crops.

        Boxes outside of the picture, or of which less than `MIN_VISIBLE` lies in a random window, are dropped. A crop is cut out of
        the original picture.
        """
        inside, left = clip_boxes(corners_of(boxes), image.width, image.height)
        seen, visible = clip_boxes(placement.boxes(inside), self.size, self.size)
        kept = np.flatnonzero((left > 0) & (visible >= MIN_VISIBLE))
        fractions = (seen[kept] / self.size).astype(np.float32)
        crops = []
        if "crop" in self.wanted:
            each = [(float(x), float(y), float(w), float(h)) for x, y, w, h in boxes[kept]]
            crops = [crop_picture(image, box, self.config.enlarge, self.crop_size, self.config.resize) for box in each]
        return Cut(kept, fractions, crops)

    def join(self, cuts: Sequence[Cut | None], texts: Sequence[Sequence[str]]) -> RegionBatch:
        """Return the regions of a batch.

        Args:
            cuts: one per anchor; None: it has no regions.
            texts: captions of every anchor's chosen regions.
        """
        there = [(anchor, cut) for anchor, cut in enumerate(cuts) if cut is not None and len(cut.kept)]
        captions = [texts[anchor][number] for anchor, cut in there for number in cut.kept.tolist()]
        counts = [len(cut.kept) for _, cut in there]
        crops = [crop for _, cut in there for crop in cut.crops]
        nothing = np.zeros((0, self.crop_size, self.crop_size, 3), np.uint8)
        return RegionBatch(
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(cut.boxes for _, cut in there)]),
            image_of=np.repeat(np.array([anchor for anchor, _ in there], np.int64), counts),
            texts=captions if "region_text" in self.wanted else None,
            crops=(np.stack(crops) if crops else nothing) if "crop" in self.wanted else None,
        )
