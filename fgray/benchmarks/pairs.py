"""Image-text pairs out of a benchmark's right answers, or out of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fgray.benchmarks.base import LoadedBenchmark, open_benchmark
from fgray.config.places import Input
from fgray.config.schema import BenchmarkConfig, Section
from fgray.data.cases import CaseSet
from fgray.data.index import INDEX_SCHEMA, ImageIndex, open_images
from fgray.data.pairs import PAIR_SCHEMA, PairSet, read_pairs
from fgray.errors import ConfigError, DataError

FILE = "file"  # in place of a benchmark's name
Pair = tuple[str | None, str | None, str | None]


class FileOptions(Section):
    """Options of pairs from a file."""

    images: Input | None = Field(None, description="folder of the images; without it nothing can be embedded or shown")


def load_pairs(config: BenchmarkConfig, root: str | None, cache: str, limit: int | None = None) -> PairSet:
    """Read the pairs that a section names.

    Args:
        config: a benchmark with its options, or ``{name: file, root: PAIRS.parquet, images: FOLDER}``; without ``images`` nothing
            can be embedded or shown, which is enough where a precomputed model brings the embeddings.
        root: where a benchmark's data lies if its section does not say.
        cache: folder or prefix for image indexes and composed images.
        limit: keep the first that many images (in key order) with their captions; where there are no images, that many texts.

    Raises:
        ConfigError: unknown benchmark or option.
        DataError: the data is not in its layout, or holds no pair.
    """
    pairs = _from_file(config, cache) if config.name == FILE else pairs_of(open_benchmark(config, root, cache))
    if limit is not None:
        column, wanted = ("image", pairs.images) if pairs.images else ("text", pairs.texts)
        kept = pc.is_in(pairs.table[column], value_set=pa.array(wanted[:limit], pa.string()))
        pairs = PairSet(pairs.table.filter(kept), pairs.index)
    return pairs


def pairs_of(loaded: LoadedBenchmark) -> PairSet:
    """Return every (image, text) that a case of the benchmark calls right, with the case's category as label.

    A prototype stands for its class's first prompt.
    """
    cases = [case for case in loaded.cases.table.to_pylist() if case["subset"] not in loaded.control_subsets]
    rows = sorted(set(_right_answers(cases, loaded.cases)), key=lambda row: tuple(value or "" for value in row))
    columns = list(zip(*rows, strict=True))
    return PairSet(pa.table([pa.array(column, pa.string()) for column in columns], schema=PAIR_SCHEMA), loaded.images)


def _right_answers(cases: Sequence[Mapping[str, Any]], names: CaseSet) -> Iterator[Pair]:
    for case in cases:
        members = case["candidates"] if case["pool"] is None else names.pools[case["pool"]]
        for position in case["labels"]:
            right = members[position]
            if case["candidate_kind"] == "prototype":
                right = names.prototypes[right][0]
            kinds = (case["query_kind"], "image" if case["candidate_kind"] == "image" else "text")
            if kinds == ("image", "text"):
                yield case["query"], right, case["category"]
            elif kinds == ("text", "image"):
                yield right, case["query"], case["category"]


def _from_file(config: BenchmarkConfig, cache: str) -> PairSet:
    if unknown := [name for name in config.options if name not in FileOptions.model_fields]:
        raise ConfigError(f"pairs from a file have no option '{unknown[0]}'", where="pairs", fix="give root and images")
    images = config.options.get("images")
    if config.root is None:
        raise ConfigError("pairs from a file need its address", where="pairs.root", fix="name a Parquet file with columns image, text")
    table = read_pairs(config.root)
    if images is None:
        return PairSet(table, ImageIndex("", INDEX_SCHEMA.empty_table()))
    index = open_images(str(images), cache)
    known = pc.is_in(pc.drop_null(table["image"]), value_set=index.keys.combine_chunks())
    if not pc.all(known).as_py():
        missing = pc.drop_null(table["image"]).filter(pc.invert(known))[0].as_py()
        raise DataError(
            f"image '{missing}' of the pairs is not in the image folder", where=str(images), fix="keys are paths without extension"
        )
    return PairSet(table, index)
