"""Cards of the gallery: which samples are shown, and what stands on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgray.report import wording
from fgray.report.pictures import Picture, Pictures

NEAR_TIE = 1e-5
FAILURES_PER_GROUP = 6
SUCCESSES_PER_GROUP = 4
_MAX_CANDIDATES = 10
_POOL_CANDIDATES = 5
_QUERY_SIDE = 224
REGION_SIDE = 288  # a box is a part of what is shown
_SCALE = 100.0  # what cosines are multiplied by before the softmax: where CLIP's learned scale ends


@dataclass(frozen=True)
class Candidate:
    """One candidate on a card: a text or a picture, its score, and its marks.

    `share` is its part of a softmax over the listed candidates, of cosines times 100; None where the page shows none.
    """

    text: str
    picture: Picture | None
    position: int
    score: float | None
    right: bool
    picked: bool
    share: float | None = None


@dataclass(frozen=True)
class Card:
    """One sample of the gallery."""

    benchmark: str
    subset: str
    task: str
    success: bool
    case_id: str
    query: str
    picture: Picture | None
    candidates: list[Candidate]
    num_candidates: int
    rank: int | None  # of the best right candidate, under the tie policy, counted from 1
    tied: int
    margin: float | None
    pooled: bool
    answer: str | None = None  # a region's class: of a pool the best candidates are listed, which may lack it

    @property
    def outcome(self) -> str:
        """The value that the gallery filters by."""
        return "success" if self.success else "failure"

    @property
    def near_tie(self) -> bool:
        """Whether the best two lie so close that other hardware may order them otherwise."""
        return self.margin is not None and abs(self.margin) < NEAR_TIE

    @property
    def search(self) -> str:
        """What the search field looks through, in lower case."""
        return " ".join([self.case_id, self.subset, self.query, *(item.text for item in self.candidates)]).lower()

    @property
    def best(self) -> Candidate | None:
        """The candidate that the model picked, where it is among those shown."""
        return next((item for item in self.candidates if item.picked), None)


def tie_policies(run: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    """Return (benchmark, subset, task) -> tie policy; (benchmark, "", "") holds the benchmark's own."""
    found: dict[tuple[str, str, str], str] = {}
    for name, info in (run.get("benchmarks") or {}).items():
        found[name, "", ""] = str(info.get("ties") or "wrong")
        for metric in info.get("metrics") or []:
            if metric.get("type", "metric") == "metric":
                found.setdefault((name, metric["subset"], metric["task"]), metric.get("ties", "wrong"))
    return found


def ranks(samples: pa.Table, ties: str) -> npt.NDArray[np.float64]:
    """Return the rank [N] of each sample's best right candidate from 1; NaN where the sample is excluded.

    Under "expected" a tie counts as wrong here: a card is a success only where the hit is certain.
    """
    columns = ["greater", "tied_before" if ties == "first" else "tied"]
    greater, tied = (samples[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in columns)
    return np.asarray(greater + tied + 1)


def select(samples: pa.Table, policies: Mapping[tuple[str, str, str], str]) -> tuple[list[int], list[int]]:
    """Return the row numbers of the failures and of the successes to show, in the order of the page.

    In each (benchmark, subset, task) the failures with the lowest margins and the successes with the highest come first,
    one per cluster before a second of any; then the groups take turns, so that a page cut short still shows all of them.
    """
    order = samples.select(["benchmark", "subset", "task", "case_id", "cluster_id", "margin", "excluded"]).append_column(
        "row", pa.array(np.arange(samples.num_rows))
    )
    order = order.filter(pc.is_null(order["excluded"])).sort_by(
        [("benchmark", "ascending"), ("subset", "ascending"), ("task", "ascending")]
    )
    keys = list(zip(*(order[name].to_pylist() for name in ("benchmark", "subset", "task")), strict=True))
    failures: list[list[int]] = []
    successes: list[list[int]] = []
    for key in dict.fromkeys(keys):
        group = order.filter(pa.array([item == key for item in keys])) if len(set(keys)) > 1 else order
        taken = samples.take(group["row"])
        rank = ranks(taken, policies.get(key) or policies.get((key[0], "", ""), "wrong"))
        hit = pa.array(rank == 1)
        failures.append(_spread(group.filter(pc.invert(hit)), "ascending", FAILURES_PER_GROUP))
        successes.append(_spread(group.filter(hit), "descending", SUCCESSES_PER_GROUP))
    return _turns(failures), _turns(successes)


def _spread(group: pa.Table, direction: str, count: int) -> list[int]:
    """Rows in order of margin, the first of each cluster ahead of the others."""
    group = group.sort_by([("margin", direction), ("case_id", "ascending")])
    seen: set[str] = set()
    first: list[int] = []
    others: list[int] = []
    for row, cluster in zip(group["row"].to_pylist(), group["cluster_id"].to_pylist(), strict=True):
        (others if cluster in seen else first).append(row)
        seen.add(cluster)
    return (first + others)[:count]


def _turns(groups: list[list[int]]) -> list[int]:
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


Regions = Mapping[tuple[str, str], Mapping[str, Any]]


def regions_of(regions: pa.Table | None, queries: Sequence[str]) -> Regions:
    """Return (benchmark, region id) -> the region's row, of those that the given queries name.

    Args:
        regions: the run's regions (``RunFolder.regions``), or None.
        queries: of samples; those that are no regions are passed over.
    """
    if regions is None:
        return {}
    wanted = regions.filter(pc.is_in(regions["region_id"], pa.array(queries, pa.string())))
    return {(row["benchmark"], row["region_id"]): row for row in wanted.to_pylist()}


def build(
    samples: pa.Table, rows: Iterable[int], policies: Mapping[tuple[str, str, str], str], pictures: Pictures, regions: Regions
) -> list[Card]:
    """Return the cards of the given rows, as many as the budget of `pictures` allows; `regions` as `regions_of` gives them."""
    cards = []
    for row in rows:
        if pictures.full:
            break
        taken = samples.slice(row, 1)
        sample = taken.to_pylist()[0]
        key = (sample["benchmark"], sample["subset"], sample["task"])
        rank = float(ranks(taken, policies.get(key) or policies.get((key[0], "", ""), "wrong"))[0])
        cards.append(card(sample, None if np.isnan(rank) else int(rank), pictures, regions.get((sample["benchmark"], sample["query"]))))
    return cards


def card(sample: Mapping[str, Any], rank: int | None, pictures: Pictures, region: Mapping[str, Any] | None) -> Card:
    """Return the card of one row of samples.parquet; `region` is the one that it asks about."""
    benchmark = sample["benchmark"]
    picture = None
    if sample["query_kind"] == "image":
        picture = pictures.get(benchmark, sample["query"], _QUERY_SIDE)
    elif sample["query_kind"] == "region" and region is not None:
        picture = pictures.region(benchmark, region, REGION_SIDE)
    return Card(
        benchmark=benchmark,
        subset=sample["subset"],
        task=sample["task"],
        success=rank == 1,
        case_id=sample["case_id"],
        query=sample["query"],
        picture=picture,
        candidates=_candidates(sample, pictures),
        num_candidates=sample["num_candidates"],
        rank=rank,
        tied=sample["tied"] or 0,
        margin=sample["margin"],
        pooled=sample["pool"] is not None,
        answer=sample["category"] if sample["query_kind"] == "region" else None,
    )


def _candidates(sample: Mapping[str, Any], pictures: Pictures) -> list[Candidate]:
    scores = sample["scores"] or [None] * len(sample["candidates"])
    labels = set(sample["labels"])
    listed = list(zip(sample["shown"], sample["candidates"], scores, strict=True))
    shares: dict[int, float] = {}
    if sample["query_kind"] == "region" and sample["scores"]:
        weights = np.exp(_SCALE * (np.array(scores, float) - max(sample["scores"])))
        shares = dict(zip(sample["shown"], (weights / weights.sum()).tolist(), strict=True))
    limit = _MAX_CANDIDATES if sample["pool"] is None else _POOL_CANDIDATES
    if len(listed) > limit:  # keep the best-scored ones and the right ones
        best = sorted(listed, key=lambda item: (item[0] not in labels, -(item[2] if item[2] is not None else 0.0), item[0]))
        top = sorted(listed, key=lambda item: (-(item[2] if item[2] is not None else 0.0), item[0]))
        kept = {item[0] for item in best[:1] if item[0] in labels} | {sample["prediction"]}
        kept |= {item[0] for item in top[: limit - len(kept)]}
        listed = [item for item in (top if sample["pool"] is not None else listed) if item[0] in kept]
    side = 176 if len(listed) <= 4 else 128
    images = sample["candidate_kind"] == "image"
    return [
        Candidate(
            text=reference,
            picture=pictures.get(sample["benchmark"], reference, side) if images else None,
            position=position,
            score=value,
            right=position in labels,
            picked=position == sample["prediction"],
            share=shares.get(position),
        )
        for position, reference, value in listed
    ]


def near_ties(samples: pa.Table, limit: int = 50) -> tuple[int, list[dict[str, Any]]]:
    """Return how many samples have a margin within ``NEAR_TIE`` of zero, and the first of them."""
    close = samples.filter(pc.fill_null(pc.less(pc.abs(samples["margin"]), NEAR_TIE), False))
    return close.num_rows, close.select(["benchmark", "subset", "task", "case_id", "margin"]).slice(0, limit).to_pylist()


def card_sentence(shown: Card) -> str:
    """Return what happened, in a few words."""
    if shown.rank is None:
        return "not scored"
    if shown.pooled:
        return f"right answer at rank {wording.number(shown.rank)} of {wording.number(shown.num_candidates)}"
    if shown.tied and not shown.success:
        return f"exact tie with {wording.plural(shown.tied, 'wrong candidate')}"
    return "right answer first" if shown.success else f"right answer ranked {shown.rank} of {shown.num_candidates}"
