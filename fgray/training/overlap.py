"""No image of an evaluation set is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from fgray.config.schema import ComputeConfig
from fgray.config.train import TrainClipJob
from fgray.embedding import resolve_compute
from fgray.mining.overlap import check_images
from fgray.training.sources import Source


def check_disjoint(job: TrainClipJob, sources: Sequence[Source], cache: str) -> None:
    """Refuse a training job whose images, those of negatives included, are in the sets that it names in `disjoint_from`.

    Args:
        job: its configuration.
        sources: what is trained on.
        cache: folder or prefix for image indexes and hashes.

    Raises:
        DataError: naming the first overlaps and their number.
        FgrayError: an evaluation set or an image cannot be read.
    """
    if job.disjoint_from:
        compute = resolve_compute(ComputeConfig(runner=job.compute.runner), None)
        ours = [(source.name, source.index) for source in sources]
        check_images(ours, job.disjoint_from, job.data.root, cache, compute, job.data.max_pixels)
