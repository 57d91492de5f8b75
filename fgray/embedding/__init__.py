"""Embeds images, texts and regions of images: requests, the stages that answer them, and the table of answers.

Evaluation and mining both stand on this: they say which of them they need, and get fp32 embeddings that are
computed once per model and kept in the result store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fgray.embedding.compute import Compute, resolve_compute
from fgray.embedding.regions import check_requests, region_requests
from fgray.embedding.requests import IMAGE, REGION, TEXT, image_request_slices, image_requests, text_request_slices, text_requests
from fgray.embedding.stages import embedding_stages
from fgray.embedding.work import Work, plan_work
from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.store import Results, ResultStore
from fgray.models.base import ModelSource

__all__ = [
    "IMAGE",
    "REGION",
    "TEXT",
    "Compute",
    "Embedded",
    "Work",
    "check_requests",
    "embed",
    "image_request_slices",
    "image_requests",
    "plan_work",
    "region_requests",
    "resolve_compute",
    "text_request_slices",
    "text_requests",
]


@dataclass(frozen=True)
class Embedded:
    """Embeddings of distinct items and how to find them.

    Attributes:
        images, texts, regions: results aligned with the ids.
        image_rows, text_rows, region_rows: item id -> row.
    """

    images: Results
    texts: Results
    regions: Results
    image_rows: Mapping[bytes, int]
    text_rows: Mapping[bytes, int]
    region_rows: Mapping[bytes, int]

    def kinds(self) -> Iterator[tuple[Results, Mapping[bytes, int]]]:
        """Yield the results of each request kind with their rows."""
        yield self.images, self.image_rows
        yield self.texts, self.text_rows
        yield self.regions, self.region_rows


def embed(work: Work, source: ModelSource, store: ResultStore, compute: Compute, max_pixels: int) -> tuple[Embedded, Progress]:
    """Compute what is missing, then read everything back from the store.

    Raises:
        FgrayError: storage stays away, the model cannot be loaded, or a worker failed.
        RunError: after the run an item is neither embedded nor quarantined.
    """
    stages = embedding_stages(source, compute, max_pixels)
    progress = Progress(units=len(work.units), items=work.missing, stages=stages, stored=work.requested - work.missing)
    with progress:
        run_units(work.units, stages, store, compute.numerics(source), compute.runner, progress)
    ids = [(kind, rows.column("item_id").combine_chunks()) for kind, rows in work.kinds()]
    images, texts, regions = (store.read(kind, wanted) for kind, wanted in ids)
    image_rows, text_rows, region_rows = ({id_: row for row, id_ in enumerate(wanted.to_pylist())} for _, wanted in ids)
    return Embedded(images, texts, regions, image_rows, text_rows, region_rows), progress
