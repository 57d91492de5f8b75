"""The page of a comparison: differences with intervals and tests, and the cases that changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

import pyarrow as pa

from fgray.report import wording
from fgray.report.cards import REGION_SIDE, regions_of
from fgray.report.page import render, write_page
from fgray.report.pictures import LoadImage, Picture, Pictures

PICTURE_BYTES = 4_500_000
_FLIPS_PER_GROUP = 4
_SCALES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Compared(Protocol):
    """A finished comparison (`fgray.evaluation.compare.Comparison`)."""

    def to_dict(self) -> dict[str, Any]:
        """Return its runs, level, metrics, flips and metrics that were not compared."""
        ...


@dataclass(frozen=True)
class Line:
    """One metric of the comparison as a reader sees it."""

    facts: Mapping[str, Any]
    title: str
    verdict: str  # better | worse | open
    bounds: tuple[float, float] | None


@dataclass(frozen=True)
class Answer:
    """One candidate of a changed case: what is right, and what either run picked."""

    text: str
    picture: Picture | None
    right: bool
    by_a: bool
    by_b: bool


@dataclass(frozen=True)
class FlipCard:
    """One case that one run gets right and the other does not."""

    facts: Mapping[str, Any]
    picture: Picture | None
    answers: list[Answer]
    search: str


def write_compare(comparison: Compared, load_image: LoadImage, out: str, regions: pa.Table | None = None) -> str:
    """Write the page of a comparison to a path or URI and return its address.

    Args:
        comparison: what `fgray.evaluation.compare.compare_runs` returned.
        load_image: (benchmark, image key) -> encoded image, of either run: both saw the same images.
        out: path or URI of the HTML file.
        regions: of either run (``RunFolder.regions``); None: no case asks about one.

    Raises:
        StorageError: the page cannot be written.
    """
    return write_page(compare_page(comparison.to_dict(), load_image, regions), out)


def compare_page(content: Mapping[str, Any], load_image: LoadImage, regions: pa.Table | None = None) -> str:
    """Return the page as HTML text for a comparison as JSON values."""
    rows = lines(content)
    bounds = [abs(end) for row in rows for end in (row.bounds or ())] + [abs(row.facts["difference"]) for row in rows]
    pictures = Pictures(load_image, PICTURE_BYTES)
    flips = content["flips"]
    selected = select_flips(flips)
    asked = regions_of(regions, [flip["query"] for flip in selected])
    shown = []
    for flip in selected:
        if pictures.full:
            break
        shown.append(_card(flip, pictures, asked.get((flip["benchmark"], flip["query"]))))
    return render(
        "compare.html.j2",
        a=content["runs"]["a"],
        b=content["runs"]["b"],
        names=names(content["runs"]),
        level=wording.percent(content["level"]).removesuffix(".0"),
        verdict=verdict(content, rows),
        rows=rows,
        benchmarks=list(dict.fromkeys(row.facts["benchmark"] for row in rows)),
        scale=next((scale for scale in _SCALES if scale >= max(bounds, default=0.0)), 1.0),
        galleries=[(which, [card for card in shown if card.facts["direction"] == which]) for which in ("gained", "lost")],
        counts={which: sum(flip["direction"] == which for flip in flips) for which in ("gained", "lost")},
        filters={name: list(dict.fromkeys(card.facts[name] for card in shown)) for name in ("benchmark", "subset", "task")},
        not_compared=content["not_compared"],
    )


def names(runs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return how the page calls the two runs: by name where these differ, else by model, else by letter."""
    for key in ("name", "model"):
        if runs["a"].get(key) and runs["b"].get(key) and runs["a"][key] != runs["b"][key]:
            return {side: runs[side][key] for side in ("a", "b")}
    return {"a": "run A", "b": "run B"}


def lines(content: Mapping[str, Any]) -> list[Line]:
    """Return the metrics with their wording; primary ones are judged by Holm's p value, others by their own."""
    threshold = 1 - content["level"]
    siblings: dict[tuple[str, str], list[str]] = {}
    for item in content["metrics"]:
        benchmark, subset, metric = wording.split_name(item["name"], [item["benchmark"]])
        siblings.setdefault((benchmark, subset), []).append(metric)
    found = []
    for item in content["metrics"]:
        benchmark, subset, metric = wording.split_name(item["name"], [item["benchmark"]])
        label = wording.metric_label(metric, siblings[benchmark, subset])
        title = f"{wording.words(subset)}: {label[:1].lower()}{label[1:]}" if subset else label
        p_value = item["p_holm"] if item["primary"] and item["p_holm"] is not None else item["p_value"]
        clear = p_value is not None and p_value < threshold
        outcome = "open" if not clear else "better" if item["difference"] > 0 else "worse"
        ends = item.get("interval")
        usable = ends and all(end is not None and not math.isnan(end) for end in ends)
        found.append(Line(item, title, outcome, (ends[0], ends[1]) if usable else None))
    return found


def verdict(content: Mapping[str, Any], rows: Sequence[Line]) -> str:
    """Return one sentence: how many metrics differ clearly, and by how much the first one does."""
    called = names(content["runs"])
    primary = [row for row in rows if row.facts["primary"]]
    judged = primary or list(rows)
    kind = "primary metric" if primary else "uncorrected metric"
    first = judged[0]
    title = first.title[:1].lower() + first.title[1:].replace(": ", ", ")
    ends = f" ({wording.points(first.bounds[0])} to {wording.points(first.bounds[1])})" if first.bounds else ""
    start = f"{called['b']} against {called['a']}: {wording.points(first.facts['difference'])} points on {title}{ends}"
    if len(judged) == 1:
        return f"{start}, {dict(better='a clear gain', worse='a clear loss', open='no clear difference')[first.verdict]}."
    better, worse = (sum(row.verdict == which for row in judged) for which in ("better", "worse"))
    return f"{start}; of {wording.plural(len(judged), kind)} {better or 'none'} clearly better, {worse or 'none'} clearly worse."


def select_flips(flips: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the changed cases to show: in each subset, task and direction those whose margin moved most.

    One per cluster comes before a second of any; the groups take turns.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for flip in flips:
        groups.setdefault(tuple(flip[name] for name in ("benchmark", "subset", "task", "direction")), []).append(flip)
    chosen = []
    for _, members in sorted(groups.items()):
        seen: set[str] = set()
        first: list[Mapping[str, Any]] = []
        others: list[Mapping[str, Any]] = []
        for flip in sorted(members, key=lambda item: (-abs(item["margin_b"] - item["margin_a"]), item["case_id"])):
            (others if flip["cluster_id"] in seen else first).append(flip)
            seen.add(flip["cluster_id"])
        chosen.append((first + others)[:_FLIPS_PER_GROUP])
    return [flip for turn in zip_longest(*chosen) for flip in turn if flip is not None]


def _card(flip: Mapping[str, Any], pictures: Pictures, region: Mapping[str, Any] | None) -> FlipCard:
    right = [text for text in flip["right"] if text is not None]
    if region is not None:
        right = [flip["category"]]  # of a pool the best candidates are listed, which may lack it
    texts = [text for text in dict.fromkeys([*right[:5], flip["predicted_a"], flip["predicted_b"]]) if text is not None]
    images = flip["candidate_kind"] == "image"
    answers = [
        Answer(
            text=text,
            picture=pictures.get(flip["benchmark"], text, 176) if images else None,
            right=text in right,
            by_a=text == flip["predicted_a"],
            by_b=text == flip["predicted_b"],
        )
        for text in texts
    ]
    picture = None
    if region is not None:
        picture = pictures.region(flip["benchmark"], region, REGION_SIDE)
    elif flip["query_kind"] == "image":
        picture = pictures.get(flip["benchmark"], flip["query"], 224)
    return FlipCard(flip, picture, answers, " ".join([flip["case_id"], flip["subset"], flip["query"], *texts]).lower())
