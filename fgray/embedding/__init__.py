"""Embeds images and texts: requests, the stages that answer them, and the table of answers.

Evaluation and mining both stand on this: they say which images and texts they need, and get fp32 embeddings that are
computed once per model and kept in the result store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fgray.embedding.compute import Compute, resolve_compute
from fgray.embedding.requests import IMAGE, TEXT, Work, image_requests, plan_work, text_requests
from fgray.embedding.stages import embedding_stages
from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.store import Results, ResultStore
from fgray.models.base import ModelSource

__all__ = ["IMAGE", "TEXT", "Compute", "Embedded", "Work", "embed", "image_requests", "plan_work", "resolve_compute", "text_requests"]


@dataclass(frozen=True)
class Embedded:
    """Embeddings of distinct items and how to find them.

    Attributes:
        images, texts: results aligned with the ids.
        image_rows, text_rows: item id -> row.
    """

    images: Results
    texts: Results
    image_rows: Mapping[bytes, int]
    text_rows: Mapping[bytes, int]


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
    images, texts = work.images["item_id"].combine_chunks(), work.texts["item_id"].combine_chunks()
    rows = ({id_: row for row, id_ in enumerate(ids.to_pylist())} for ids in (images, texts))
    return Embedded(store.read(IMAGE, images), store.read(TEXT, texts), *rows), progress
