"""What a mining job will do: its pairs, what is embedded already, the size of each search."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from rich.table import Table

from fgray.config.schema import Direction, MineJob, PrecomputedModel
from fgray.embedding import Work, plan_work, resolve_compute
from fgray.engine.store import ResultStore
from fgray.mining.embeddings import needed
from fgray.mining.filters import checked_chain, describe
from fgray.mining.sides import Linked, load_sets
from fgray.models import open_model


@dataclass(frozen=True)
class MinePlan:
    """A mining job, checked.

    Attributes:
        job: its configuration.
        work: what is asked of the model and what is missing; None where the embeddings were made elsewhere.
        sizes: direction -> (anchors, corpus).
        filters: name -> meaning, in the order of the chain.
    """

    job: MineJob
    work: Work | None
    sizes: dict[Direction, tuple[int, int]]
    filters: dict[str, str]

    def table(self) -> Table:
        """Return the plan as a table for the console."""
        table = Table(title=f"plan of {self.job.name}", show_header=False)
        if self.work is not None:
            table.add_row(
                "items", f"{self.work.requested:,} distinct ({self.work.images.num_rows:,} images, {self.work.texts.num_rows:,} texts)"
            )
            table.add_row("stored", f"{self.work.requested - self.work.missing:,} already embedded")
            table.add_row("to do", f"{self.work.missing:,} items in {len(self.work.units)} units")
        for direction, (anchors, corpus) in self.sizes.items():
            table.add_row(direction, f"{anchors:,} anchors x {corpus:,} candidates, the best {min(self.job.search.k, corpus)} of each")
        for name, meaning in self.filters.items():
            table.add_row(f"filter {name}", meaning)
        table.add_row("output", self.job.output)
        return table


def plan_mining(job: MineJob) -> MinePlan:
    """Check a mining job and subtract what the store has; nothing is embedded.

    Raises:
        FgrayError: whatever is wrong with configuration, data, model or storage.
    """
    chain = checked_chain(job)
    sets = load_sets(job)
    linked = Linked(sets[0], sets[1] if job.corpus is not None else None)
    found = linked.checked_sides(job.directions, chain)
    sizes = {direction: (len(sides.anchors.keys), len(sides.corpus.keys)) for direction, sides in found.items()}
    work = None
    if not isinstance(job.model, PrecomputedModel):
        source = open_model(job.model)
        fingerprint = source.fingerprint()
        images, texts = needed(job, sets, fingerprint)
        rows = resolve_compute(job.compute, source).unit_rows
        work = plan_work(pa.concat_tables(images), pa.concat_tables(texts), ResultStore(job.store_uri, fingerprint), rows)
    return MinePlan(job, work, sizes, {name: describe(type(built)) for name, built in chain})
