"""The false-negative audit: what the filters catch of known false negatives, and what they cost in known true negatives.

Known false negatives are injected (see `fgray.mining.injection`) under new keys, with their links hidden, so that filters can
know them by what they are and not by what the pairs say. Only those among an anchor's k best candidates can do harm; recall is
the share of these that a filter drops. The price is the share of true negatives that it drops as well. "True" is by
annotation: a candidate that shares no image and no label with its anchor by the pairs' full links. Some of these fit the anchor
all the same (another dog on another lawn), so the price is an upper bound of the harm.

An anchor's many candidates hide the few that matter: a filter that drops only the images that differ from the anchor's in a
detail costs a few percent of all and most of the best. So the price is told apart for the `HARDEST` first true negatives of each anchor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fgray.config.schema import AuditConfig, Direction, Dtype
from fgray.metrics.intervals import proportion_interval
from fgray.metrics.states import ClusterSums
from fgray.mining.candidates import Candidates, Sides
from fgray.mining.copies import TRANSFORMS
from fgray.mining.curves import Curve, price_curves
from fgray.mining.filters import Chain, run_chain
from fgray.mining.injection import EXACT, PARAPHRASE, RECASED, Injected, inject
from fgray.mining.resources import Resources
from fgray.mining.sampling import Sample
from fgray.mining.score_filters import places
from fgray.mining.subset import subset_sides

LEVEL = 0.95  # of the intervals
HARDEST = 10  # true negatives of an anchor, by rank, that the second price is of: about as many as a run keeps
CHAIN = "chain"
LINK_FILTERS = ("same_image", "same_caption", "other_captions", "same_label")
"""Filters that go by the pairs alone; checked apart, with links visible."""
FAMILIES: Mapping[str, list[str]] = {"exact": [EXACT], "transformed": list(TRANSFORMS), "paraphrase": [PARAPHRASE], "recased": [RECASED]}
"""Families of transforms, as curves draw them."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """A number of hits among so many, with an interval that knows that those of one anchor go together.

    Attributes:
        hits, count: the numbers.
        interval: of hits / count at `LEVEL`; None where the count is 0.
    """

    hits: int
    count: int
    interval: tuple[float, float] | None

    @property
    def value(self) -> float | None:
        """Return hits / count; None where the count is 0."""
        return self.hits / self.count if self.count else None

    @classmethod
    def of(cls, hit: Mask, anchor: npt.NDArray[np.int64]) -> Share:
        """Count the hits of items that belong to anchors."""
        if not len(hit):
            return cls(0, 0, None)
        ids, place = np.unique(anchor, return_inverse=True)
        sums = ClusterSums([str(id_) for id_ in ids], np.bincount(place).astype(float), np.bincount(place, hit).astype(float))
        return cls(int(hit.sum()), len(hit), proportion_interval(sums, LEVEL))


@dataclass(frozen=True)
class Verdict:
    """What one filter, or the chain of all, did.

    Attributes:
        name: the filter, or "chain".
        injected: transform -> how many were injected.
        caught: transform -> share of the retrieved ones that it dropped.
        lost: share of the true negatives that it dropped.
        hardest: the same of each anchor's `HARDEST` first ones.
    """

    name: str
    injected: Mapping[str, int]
    caught: Mapping[str, Share]
    lost: Share
    hardest: Share

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return transform, "true_negatives" or "hardest_true_negatives" -> numbers."""
        rows: dict[str, dict[str, Any]] = {}
        for name, share in self.caught.items():
            counts = {"injected": self.injected[name], "retrieved": share.count, "caught": share.hits, "survived": share.count - share.hits}
            rows[name] = {**counts, "recall": share.value, "ci95": _listed(share.interval)}
        for name, lost in (("true_negatives", self.lost), ("hardest_true_negatives", self.hardest)):
            rows[name] = {"seen": lost.count, "lost": lost.hits, "share": lost.value, "ci95": _listed(lost.interval)}
        return rows


@dataclass(frozen=True)
class DirectionAudit:
    """The audit of one direction.

    Attributes:
        direction: which.
        anchors: number of sampled rows.
        verdicts: every filter alone, in the order of the chain, then the chain. Filters that thin (`Filter.THINS`) are left out.
        linked: filter that goes by links -> share of the false negatives due to it that it drops when their links are visible.
        curves: the price of thresholds.
    """

    direction: Direction
    anchors: int
    verdicts: tuple[Verdict, ...]
    linked: Mapping[str, Share]
    curves: tuple[Curve, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        linked = {name: {"due": share.count, "caught": share.hits, "recall": share.value} for name, share in self.linked.items()}
        return {
            "anchors": self.anchors,
            "filters": {verdict.name: verdict.to_dict() for verdict in self.verdicts},
            "links_visible": linked,
            "curves": [curve.to_dict() for curve in self.curves],
        }


def audit_direction(
    direction: Direction, sides: Sides, sample: Sample, chain: Chain, resources: Resources, config: AuditConfig, dtype: Dtype
) -> DirectionAudit:
    """Inject known false negatives and see what becomes of them.

    Args:
        direction: of the search.
        sides: of the direction.
        sample: rows that `fgray.mining.sampling` chose and gathered.
        chain: what `fgray.mining.filters.build_filters` returned.
        resources: of the run.
        config: seed of crops and of the choice of captions.
        dtype: storage type of the search.

    Raises:
        ConfigError: it is not known where the images lie that are to be copied.
        FgrayError: what reading, embedding or a filter raises.
    """
    sides, sample = _reduce(sides, sample)
    injected = inject(sides, sample.anchor, sample.positive, config.seed, resources, dtype)
    candidates, item = retrieve(sample, injected)
    return judge(direction, sides, len(sample.anchor), candidates, item, injected, chain, resources)


def judge(
    direction: Direction,
    sides: Sides,
    anchors: int,
    candidates: Candidates,
    item: npt.NDArray[np.int64],
    injected: Injected,
    chain: Chain,
    resources: Resources,
) -> DirectionAudit:
    """Let every filter, and the chain of all, decide on the candidates, and count what of it is right.

    Args:
        direction: of the search.
        sides: with all links.
        anchors: number of sampled rows.
        candidates: what `retrieve` returned.
        item: likewise.
        injected: what was injected.
        chain: the filters.
        resources: of the run.

    Raises:
        FgrayError: what a filter raises.
    """
    done = np.array([*injected.transform, ""])[item]  # "" for what is not injected, whose item is -1
    true = (item < 0) & ~_related(sides, candidates)
    hard = np.flatnonzero(true)
    hard = hard[places(candidates.row[hard]) < HARDEST]
    judges = [(name, built) for name, built in chain if not built.THINS]

    def verdict(name: str, keep: Mask) -> Verdict:
        caught = {}
        for transform in dict.fromkeys(injected.transform):
            here = done == transform
            caught[transform] = Share.of(~keep[here], candidates.row[here])
        counts = {transform: injected.transform.count(transform) for transform in caught}
        lost, hardest = (Share.of(~keep[part], candidates.row[part]) for part in (true, hard))
        return Verdict(name, counts, caught, lost, hardest)

    verdicts = [verdict(name, built.keep(candidates, injected.hidden, resources)) for name, built in judges]
    survivors, _ = run_chain(judges, candidates, injected.hidden, resources)
    verdicts.append(verdict(CHAIN, np.isin(_numbers(candidates), _numbers(survivors))))
    families = {name: np.isin(done, members) for name, members in FAMILIES.items() if not set(members).isdisjoint(injected.transform)}
    curves = price_curves(direction, judges, candidates, families, true, hard, injected.hidden, resources)
    linked = _check_links(judges, candidates, done, injected.visible, resources)
    return DirectionAudit(direction, anchors, tuple(verdicts), linked, curves)


def retrieve(sample: Sample, injected: Injected) -> tuple[Candidates, npt.NDArray[np.int64]]:
    """Put every anchor's own false negatives among its neighbours and keep the k best.

    Their scores are exact, as the search's are (see `fgray.mining.vectors`). The order is (score descending, row), and injected
    rows follow the corpus. A paraphrase that the search found keeps its place.

    Returns:
        The candidates, `row` counting the sample, and per candidate the number of its injected item, -1 for the others.
    """
    count, k = sample.neighbours.shape
    own = np.einsum("md,md->m", sample.vectors[injected.owner], injected.vectors, dtype=np.float64)
    item = np.arange(len(own))
    found, at = np.nonzero(sample.neighbours >= 0)
    row = np.concatenate([injected.owner, found])
    corpus = np.concatenate([injected.row, sample.neighbours[found, at]])
    score = np.concatenate([own, sample.scores[found, at]])
    item = np.concatenate([item, np.full(len(found), -1)])
    valid = ~np.isnan(score)  # a copy that could not be embedded is never retrieved
    row, corpus, score, item = row[valid], corpus[valid], score[valid], item[valid]
    _, first = np.unique(np.stack([row, corpus], axis=1), axis=0, return_index=True)  # injected ones come first
    order = first[np.lexsort((corpus[first], -score[first], row[first]))]
    row, corpus, score, item = row[order], corpus[order], score[order], item[order]
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(count))[row] + 1
    best = rank <= k
    row, score = row[best], score[best]
    margin = sample.positive_score[row] - score
    positive = sample.positive[row]
    return Candidates(row, sample.anchor[row], positive, corpus[best], score, rank[best].astype(np.int32), margin), item[best]


def _reduce(sides: Sides, sample: Sample) -> tuple[Sides, Sample]:
    """Leave of all sides only what the sample touches, so that an audit costs the same whatever the size of the corpus."""
    anchors, positives = np.unique(sample.anchor), np.unique(sample.positive[sample.positive >= 0])
    corpus = np.unique(sample.neighbours[sample.neighbours >= 0])
    small = subset_sides(sides, anchors, positives, corpus)
    neighbours = np.where(sample.neighbours >= 0, np.searchsorted(corpus, sample.neighbours), -1)
    positive = np.where(sample.positive >= 0, np.searchsorted(positives, sample.positive), -1)
    anchor = np.searchsorted(anchors, sample.anchor)
    return small, Sample(anchor, positive, sample.positive_score, sample.vectors, neighbours, sample.scores)


def _related(sides: Sides, candidates: Candidates) -> Mask:
    """Return which candidates share an image or a label with their anchor; rows after the corpus (injected ones) do not count."""
    related = np.zeros(len(candidates), bool)
    old = np.flatnonzero(candidates.corpus < len(sides.corpus.keys))
    anchor, corpus = candidates.anchor[old], candidates.corpus[old]
    for links in ("images", "labels"):
        shared = getattr(sides.anchors, links)[anchor].multiply(getattr(sides.corpus, links)[corpus])
        related[old] |= np.asarray(shared.sum(axis=1)).ravel() > 0
    return related


def _numbers(candidates: Candidates) -> npt.NDArray[np.int64]:
    return candidates.row * (1 << 32) + candidates.rank


def _check_links(
    judges: Chain, candidates: Candidates, done: npt.NDArray[np.str_], visible: Sides, resources: Resources
) -> dict[str, Share]:
    """Let the filters that go by links see them; each must drop every false negative due to it."""
    found = {}
    for name, built in judges:
        if name in LINK_FILTERS:
            due = (done != "") & _due(name, candidates, done, visible)
            keep = built.keep(candidates, visible, resources)
            found[name] = Share.of(~keep[due], candidates.row[due])
    return found


def _due(name: str, candidates: Candidates, done: npt.NDArray[np.str_], sides: Sides) -> Mask:
    """Return which false negatives a filter must know by their links."""
    due = np.ones(len(candidates), bool)
    if name == "same_label":
        due = np.diff(sides.anchors.labels.indptr)[candidates.anchor] > 0
    elif name == "same_caption" and sides.anchors.kind == sides.corpus.kind == "text":
        due = done == RECASED  # a paraphrase is another caption
    elif name in ("same_caption", "other_captions"):
        due = np.diff(sparse.csr_matrix(sides.anchors.images @ sides.texts.images.T).indptr)[candidates.anchor] > 0
    return due


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
