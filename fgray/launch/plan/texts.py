"""The plan of a text_negatives job: how many captions go through what."""

from __future__ import annotations

from fgray.benchmarks.pairs import load_pairs
from fgray.config.schema import TextNegativesJob
from fgray.embedding import resolve_compute
from fgray.text_negatives.generator import build_generator


def text_negatives_rows(job: TextNegativesJob) -> list[tuple[str, str]]:
    """Return the lines of the plan.

    Raises:
        FgrayError: whatever is wrong with data or generators.
    """
    pairs = load_pairs(job.pairs, job.data.root, job.store_uri)
    captions = len(pairs.texts)
    taken = captions if job.limit is None else min(captions, job.limit)
    compute = resolve_compute(job.compute, None)
    rows = [("captions", f"{taken:,} of {captions:,} distinct ones, of {len(pairs.images):,} images")]
    vocabulary = False
    for config in job.generators:
        generator = build_generator(config.name, config.options)
        vocabulary |= generator.needs_vocabulary
        needs = "with the language model" if generator.needs_filler else "by rules"
        rows.append((f"generator {config.name}", f"{taken:,} captions, {needs}"))
    rows.insert(1, ("parsed", f"{captions if vocabulary else taken:,} captions{' at least' if not vocabulary else ''}, by {job.pipeline}"))
    if job.judge is not None:
        judged = taken if job.plausibility_limit is None else min(taken, job.plausibility_limit)
        rows.append(("plausibility", f"the negatives of up to {judged:,} captions, by {job.judge.path}"))
    rows.append(("workers", f"{compute.runner}: {compute.workers} model on {compute.device}, {compute.decode_workers} others"))
    return [*rows, ("output", job.output)]
