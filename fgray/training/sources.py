"""What is trained on: pairs with their hard negatives and regions, as arrays over the images and texts of a source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.benchmarks.base import LoadedBenchmark, open_benchmark
from fgray.benchmarks.pairs import FILE, load_pairs, pairs_of
from fgray.config.train import NegativesConfig, TrainClipJob, TrainSource
from fgray.data.index import ImageIndex
from fgray.data.negatives import read_negatives
from fgray.data.pairs import PairSet
from fgray.errors import ConfigError, DataError, did_you_mean
from fgray.training.case_negatives import case_negatives
from fgray.training.collect import Collected, collect
from fgray.training.hard_negatives import Numbers, Ragged
from fgray.training.regions import Regions, build_regions, read_regions


@dataclass(frozen=True)
class Source:
    """Image-text pairs, numbered from 0, with their hard negatives and regions.

    Attributes:
        name: of the benchmark that the pairs come from, or "file".
        share: share of every batch, relative to the other sources.
        index: the images that are used, numbered by their rows: those of pairs and of negatives.
        texts: large_string, numbered likewise: captions and negative texts.
        image_of: int32 [N], number of each pair's image.
        text_of: int32 [N], number of its caption.
        types: names of the types of negatives; those of a benchmark's cases have the name of their subset.
        text_negatives: negative texts of each pair.
        image_negatives: negative images of each pair.
        regions: of the images; None: they have none.
    """

    name: str
    share: float
    index: ImageIndex
    texts: pa.Array
    image_of: npt.NDArray[np.int32]
    text_of: npt.NDArray[np.int32]
    types: tuple[str, ...]
    text_negatives: Ragged
    image_negatives: Ragged
    regions: Regions | None = None

    def __len__(self) -> int:
        return len(self.image_of)

    @property
    def pairs(self) -> pa.Table:
        """Return the pairs as a table with columns image (key) and text, in the order of their numbers."""
        return pa.table({"image": self.index.keys.take(pa.array(self.image_of)), "text": self.texts.take(pa.array(self.text_of))})

    @cached_property
    def shards(self) -> npt.NDArray[np.int32]:
        """The number of the shard that each pair's image lies in, int32 [N]."""
        numbers: npt.NDArray[np.int32] = self.index.table["shard"].combine_chunks().dictionary_encode().indices.to_numpy()
        return numbers[self.image_of]

    @cached_property
    def pairs_of_image(self) -> tuple[Numbers, Numbers]:
        """The pairs of each image: offsets, int64 [images + 1], into numbers of pairs, int64 [N]."""
        offsets = np.zeros(self.index.table.num_rows + 1, np.int64)
        np.cumsum(np.bincount(self.image_of, minlength=len(offsets) - 1), out=offsets[1:])
        return offsets, np.argsort(self.image_of, kind="stable")

    @cached_property
    def fingerprint(self) -> str:
        """A hex digest of what is trained on: bytes of images, captions, negatives, regions and their order; not where they lie."""
        digest = hashlib.sha256()
        negatives = (
            part for ragged in (self.text_negatives, self.image_negatives) for part in (ragged.offsets, ragged.items, ragged.types)
        )
        for array in (self.image_of, self.text_of, *negatives):
            digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array).tobytes())
        for value in (*self.types, "", *self.index.table["sha256"].to_pylist(), *self.texts.to_pylist()):
            content = value.encode() if isinstance(value, str) else value
            digest.update(len(content).to_bytes(8, "little") + content)
        if self.regions is not None:
            digest.update(self.regions.content)
        return digest.hexdigest()

    def columns(self, config: NegativesConfig) -> list[int | None]:
        """Return the number of the type that each column of negative texts takes: None for any, -1 for one that is not here."""
        if not config.text_types:
            return [None] * config.texts
        return [self.types.index(name) if name in self.types else -1 for name in config.text_types]


def load_sources(job: TrainClipJob, cache: str) -> list[Source]:
    """Read the pairs, negatives and regions of a training job.

    Args:
        job: its configuration.
        cache: folder or prefix for image indexes and composed images.

    Raises:
        ConfigError: an unknown benchmark, option or type of negative; negatives are asked for and no source brings any.
        DataError: pairs without images or captions, a negatives file that is not about the pairs, a negative image that is not there.
        StorageError: something cannot be read.
    """
    sources = [_load(config, job, cache) for config in job.sources]
    _check_negatives(job.negatives, sources)
    return sources


def _load(config: TrainSource, job: TrainClipJob, cache: str) -> Source:
    loaded: LoadedBenchmark | None = None
    if config.pairs.name == FILE:
        if config.cases:
            raise ConfigError("pairs from a file have no cases", where="sources.cases", fix="name a benchmark, or leave cases out")
        pairs = load_pairs(config.pairs, job.data.root, cache)
    else:
        loaded = open_benchmark(config.pairs, job.data.root, cache)
        pairs = pairs_of(loaded)
    source = build_source(config, pairs, loaded if config.cases else None, job.negatives)
    if config.regions is None:
        return source
    found = build_regions(read_regions(config.regions), source.index.keys, config.regions.boxes)
    return replace(source, regions=found)


def build_source(config: TrainSource, pairs: PairSet, cases: LoadedBenchmark | None, wanted: NegativesConfig) -> Source:
    """Join pairs with their negatives.

    Args:
        config: where the negatives files lie, and the source's share.
        pairs: what is trained on; rows with one side only are left out.
        cases: the benchmark whose wrong candidates are negatives; None: no cases.
        wanted: kinds of negatives that are not asked for are not kept.

    Raises:
        ConfigError, DataError: as `load_sources`.
    """
    table = pairs.table.select(["image", "text"]).drop_null()
    table = table.group_by(["image", "text"], use_threads=False).aggregate([]).select(["image", "text"])  # labels may repeat a pair
    name = config.pairs.name
    if table.num_rows == 0:
        raise DataError("no image has a caption", where=name, fix="training needs pairs of an image and a text")
    if pairs.index.table.num_rows == 0:
        raise DataError("the pairs do not say where their images lie", where=name, fix="give the section images: FOLDER")
    tables: list[tuple[str, pa.Table]] = [(uri, read_negatives(uri)[0]) for uri in config.negatives]
    if cases is not None:
        tables.append((name, case_negatives(cases)))
    kinds = {"text"} if wanted.texts else set()
    if wanted.images or wanted.image_pairs:
        kinds.add("image")
    found: Collected = collect(table, pairs.index, tables, kinds)
    return Source(
        name=name,
        share=config.share,
        index=ImageIndex(pairs.index.root_uri, found.images),
        texts=found.texts,
        image_of=found.image_of.astype(np.int32),
        text_of=found.text_of.astype(np.int32),
        types=found.types,
        text_negatives=found.text_negatives,
        image_negatives=found.image_negatives,
    )


def _check_negatives(wanted: NegativesConfig, sources: Sequence[Source]) -> None:
    asked: dict[str, tuple[Any, str]] = {
        "negatives.texts": (wanted.texts, "text_negatives"),
        "negatives.images": (wanted.images, "image_negatives"),
        "negatives.image_pairs": (wanted.image_pairs, "image_negatives"),
    }
    for where, (value, kind) in asked.items():
        if value and not any(len(getattr(source, kind).items) for source in sources):
            what = f"{where.rpartition('.')[2]} is {str(value).lower()}, but no source brings negative {kind.partition('_')[0]}s"
            raise ConfigError(what, where=where, fix="name negatives files in sources, or set cases: true")
    known = {source.types[number] for source in sources for number in np.unique(source.text_negatives.types).tolist()}
    for name in wanted.text_types:
        if name not in known:
            raise ConfigError(f"no negative text is of type '{name}'", where="negatives.text_types", fix=did_you_mean(name, known))
