"""The mine job: embed, search, filter, audit, write the negatives and the report."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from fgray.config.schema import Direction, MineJob
from fgray.data.index import ImageIndex
from fgray.data.negatives import NAME, NEGATIVE_SCHEMA, to_parquet
from fgray.data.pairs import PairSet
from fgray.engine.lease import open_run
from fgray.errors import DataError
from fgray.mining.audit import DirectionAudit, audit_direction
from fgray.mining.candidates import Candidates, Sides
from fgray.mining.embeddings import Embeddings, Predict, open_embeddings
from fgray.mining.filters import Chain, checked_chain
from fgray.mining.overlap import check_images
from fgray.mining.resources import Resources
from fgray.mining.riskiest import Riskiest
from fgray.mining.rows import RowMaker, Tally, blocks_of_rows, positive_scores
from fgray.mining.sampling import sample_rows, take_sample
from fgray.mining.search import search
from fgray.mining.sides import Linked, load_sets
from fgray.report.mine import write_mine_report
from fgray.runs import RunFolder, describe_job

RISKIEST = 50  # survivors listed where there is no audit to say how many


@dataclass(frozen=True)
class MineResult:
    """A finished mining run.

    Attributes:
        uri: its run folder, with negatives.parquet.
        report: address of report.html.
        mining: what metrics.json holds under "mining": direction -> counts and histograms.
        approximate: direction -> recall of an approximate search against the exact one; empty where the search was exact.
    """

    uri: str
    report: str
    mining: dict[str, dict[str, Any]]
    approximate: dict[str, dict[str, Any]] = field(default_factory=dict)

    def table(self) -> Table:
        """Return the counts per direction for the console."""
        table = Table(title=f"negatives in {self.uri}/{NAME}", title_justify="left")
        remarks = [
            f"nothing is left of {direction}: loosen the filter that drops most"
            for direction, one in self.mining.items()
            if not one["kept"]
        ]
        if self.approximate:
            found = (f"{one['recall']:.1%} of {direction}'s exact best {one['k']}" for direction, one in self.approximate.items())
            remarks.append("approximate search, found " + ", ".join(found))
        table.caption = "; ".join(remarks) or None
        for column in ("direction", "anchors", "rows", "candidates", "kept", "short rows", "dropped by"):
            table.add_column(column, justify="left" if column in ("direction", "dropped by") else "right", overflow="fold")
        for direction, counts in self.mining.items():
            numbers = (f"{counts[name]:,}" for name in ("anchors", "rows", "candidates", "kept", "short_rows"))
            table.add_row(direction, *numbers, ", ".join(f"{name} {count:,}" for name, count in counts["dropped"].items()))
        return table


def mine(job: MineJob, source: Mapping[str, Any] | None = None, predict: Predict | None = None) -> MineResult:
    """Run a mining job, or finish one that was interrupted: what was embedded and searched is not computed again.

    Args:
        job: the configuration.
        source: the configuration as it was written, with ``${ENV}`` unresolved, for run.json; default: the job itself.
        predict: says before anything is embedded what that will take; run.json keeps it beside what was measured.

    Raises:
        RunError: another run holds the output, it belongs to another configuration, or too many items are corrupt.
        FgrayError: whatever else is wrong with data, model, filters or storage.
    """
    chain = checked_chain(job)
    with open_run(job) as folder:
        previous = folder.read_json(RunFolder.RUN) if folder.storage.exists(RunFolder.RUN) else {}
        run = describe_job(job, source)
        embeddings = open_embeddings(job, previous.get("compute"))
        run["model"] = {"card": dict(embeddings.card), "fingerprint": embeddings.fingerprint}
        run["compute"] = asdict(embeddings.compute)
        embeddings.predict = predict
        folder.write_json(RunFolder.RUN, run)
        return _Mining(job, folder, embeddings, chain, run).finish()


def report_again(folder: RunFolder, job: MineJob) -> str:
    """Write a finished run's report from its files and return its address; images that are gone leave a gap."""
    return write_mine_report(folder, _reader(load_sets(job)))


@dataclass
class _Found:
    """What one direction's mining found."""

    direction: Direction
    tally: Tally
    riskiest: Riskiest
    tables: list[pa.Table] = field(default_factory=list)
    risks: list[dict[str, Any]] = field(default_factory=list)
    audit: DirectionAudit | None = None
    approximate: dict[str, Any] | None = None


class _Mining:
    def __init__(self, job: MineJob, folder: RunFolder, embeddings: Embeddings, chain: Chain, run: dict[str, Any]) -> None:
        self.job, self.folder, self.embeddings, self.chain, self.run = job, folder, embeddings, chain, run
        self.resources = Resources(embeddings.source, job.store_uri, embeddings.compute, job.data.max_pixels)
        self.vectors = f"{folder.uri}/vectors"
        self.shown = RISKIEST if job.audit is None else job.audit.riskiest

    def finish(self) -> MineResult:
        job, start = self.job, time.monotonic()
        given = load_sets(job)
        if job.disjoint_from:
            mined = [
                (name, ImageIndex(one.index.root_uri, one.index.locate(one.images)))
                for name, one in zip(("pairs", "corpus"), given, strict=False)
            ]
            check_images(mined, job.disjoint_from, job.data.root, job.store_uri, self.embeddings.compute, job.data.max_pixels)
        Linked(given[0], given[1] if job.corpus is not None else None).checked_sides(job.directions, self.chain)
        sets, quarantine = self.embeddings.prepare(given)
        self.folder.write_table(RunFolder.ITEMS, self.embeddings.items)
        self.folder.write_table(RunFolder.QUARANTINE, quarantine)
        linked = Linked(sets[0], sets[1] if job.corpus is not None else None)
        found = [self._direction(direction, linked) for direction in job.directions]
        data = [_fingerprint(pairs) for pairs in sets]
        facts = {"config": self.run["fingerprint"], "model": self.embeddings.fingerprint, "data": data}
        in_order = sorted(found, key=lambda one: one.direction)  # of the file
        rows = pa.concat_tables([NEGATIVE_SCHEMA.empty_table(), *(table for one in in_order for table in one.tables)])
        self.folder.storage.write_bytes(NAME, to_parquet(rows, facts))
        self.run["timing"] = {"seconds": round(time.monotonic() - start, 3), **self.embeddings.timing}
        if self.embeddings.plan:
            self.run["plan"] = dict(self.embeddings.plan)
        self.folder.write_json(RunFolder.RUN, self.run)
        mining: dict[str, dict[str, Any]] = {one.direction: one.tally.to_dict() for one in found}
        content = {
            "fingerprints": facts,
            "mining": mining,
            "audit": {one.direction: one.audit.to_dict() for one in found if one.audit is not None},
            "riskiest": _in_turns([one.risks for one in found])[: self.shown],
        }
        approximate: dict[str, dict[str, Any]] = {one.direction: one.approximate for one in found if one.approximate is not None}
        self.folder.write_json(RunFolder.METRICS, content | ({"approximate": approximate} if approximate else {}))
        report = write_mine_report(self.folder, _reader(sets))
        return MineResult(self.folder.uri, report, mining, approximate)

    def _direction(self, direction: Direction, linked: Linked) -> _Found:
        job, compute = self.job, self.embeddings.compute
        sides = linked.sides(direction)
        write = self.embeddings.vectors
        anchors = write(sides.anchors.kind, sides.anchors.keys, job.search.dtype, self.vectors)
        corpus = write(sides.corpus.kind, sides.corpus.keys, job.search.dtype, self.vectors)
        given = sides.positives
        positives = None if given is None else write(given.kind, given.keys, job.search.dtype, self.vectors)
        asked = job.search
        neighbours = search(anchors, corpus, asked.k, job.store_uri, compute, asked.memory_gib, index=asked.index, options=asked.options)
        anchor, positive = linked.rows(direction, sides)
        scores = positive_scores(anchors, positives, anchor, positive)
        wanted = next((getattr(built, "value", 0) for name, built in self.chain if name == "num_negatives"), 0)
        searched = min(asked.k, corpus.rows)
        maker = RowMaker(direction, sides, self.chain, self.resources, wanted, searched, self.embeddings.fingerprint[:12])
        found = _Found(
            direction, Tally(len(np.unique(anchor)), len(anchor)), Riskiest(RISKIEST if job.audit is None else job.audit.riskiest)
        )
        if asked.index != "exact":
            from fgray.mining.approximate import recall_on_sample

            recall = recall_on_sample(neighbours, compute, asked.memory_gib)
            found.approximate = {"recall": recall, "k": searched}
        blocks = blocks_of_rows(neighbours.blocks(), anchor, positive, scores)
        found.tables += [maker.make(candidates, scores, found.tally, found.riskiest) for candidates in blocks]
        found.risks = _risks(direction, sides, found.riskiest.survivors())
        if job.audit is not None:
            rows = sample_rows(sides, anchor, positive, job.audit.anchors, job.audit.seed)
            sample = take_sample(rows, anchor, positive, scores, anchors, neighbours.blocks())
            found.audit = audit_direction(direction, sides, sample, self.chain, self.resources, job.audit, asked.dtype)
        return found


def _risks(direction: Direction, sides: Sides, kept: Candidates | None) -> list[dict[str, Any]]:
    """Return the riskiest survivors as metrics.json lists them."""
    if kept is None:
        return []
    columns = zip(*(getattr(kept, name).tolist() for name in ("anchor", "positive", "corpus", "score", "margin", "rank")), strict=True)
    return [
        {
            "direction": direction,
            "anchor": sides.anchors.keys[anchor],
            "positive": None if sides.positives is None else sides.positives.keys[positive],
            "negative": sides.corpus.keys[corpus],
            "score": score,
            "margin": None if np.isnan(margin) else margin,
            "rank": rank,
        }
        for anchor, positive, corpus, score, margin, rank in columns
    ]


def _in_turns(lists: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the first of every list, then the second ones, and so on."""
    return [risk for turn in zip_longest(*lists) for risk in turn if risk is not None]


def _fingerprint(pairs: PairSet) -> str:
    """Return the hash of pairs and of their images' content, wherever those lie."""
    digest = hashlib.sha256()
    for row in pairs.table.to_pylist():
        digest.update(repr(sorted(row.items())).encode())
    if pairs.index.table.num_rows:
        digest.update(b"".join(pairs.index.locate(pairs.images)["sha256"].to_pylist()))
    return digest.hexdigest()


def _reader(sets: Sequence[PairSet]) -> Callable[[str], bytes]:
    """Return a function that reads an image of the pairs or of the corpus by its key."""
    known = [set(pairs.index.keys.to_pylist()) for pairs in sets]

    def read(key: str) -> bytes:
        for pairs, keys in zip(sets, known, strict=True):
            if key in keys:
                return pairs.index.read(pairs.index.locate([key]))[0]
        raise DataError("its file is not known", where=key, fix="say where the images of the pairs lie")

    return read
