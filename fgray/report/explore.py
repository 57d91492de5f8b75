"""A gallery of a benchmark's cases: pictures, texts and which belong together; no model is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fgray.benchmarks.base import LoadedBenchmark
from fgray.data.cases import CaseSet
from fgray.report import wording
from fgray.report.page import render, write_page
from fgray.report.pictures import LoadImage, Picture, Pictures

PICTURE_BYTES = 4_500_000
_MAX_IMAGES = 12
_MAX_TEXTS = 8


@dataclass
class Member:
    """One picture of a case with the texts that are right for it, and the wrong ones that no other picture claims."""

    key: str
    right: dict[str, None] = field(default_factory=dict)
    wrong: dict[str, None] = field(default_factory=dict)
    picture: Picture | None = None


@dataclass(frozen=True)
class Gathered:
    """Pictures that stand together: the candidates of one question, or a single picture."""

    subset: str
    categories: list[str]
    members: list[Member]
    more: int

    @property
    def search(self) -> str:
        """What the search field looks through, in lower case."""
        texts = [text for member in self.members for text in (member.key, *member.right, *member.wrong)]
        return " ".join([self.subset, *self.categories, *texts]).lower()


def write_explore(loaded: LoadedBenchmark, load_image: LoadImage, out: str, limit: int = 24) -> str:
    """Write the gallery to a path or URI and return its address.

    Args:
        loaded: a benchmark's data.
        load_image: (benchmark, image key) -> encoded image.
        out: path or URI of the HTML file.
        limit: cards per subset, spread evenly over its cases.

    Raises:
        StorageError: the page cannot be written.
    """
    return write_page(explore_page(loaded, load_image, limit), out)


def explore_page(loaded: LoadedBenchmark, load_image: LoadImage, limit: int) -> str:
    """Return the gallery as HTML text."""
    table = loaded.cases.table
    subsets = list(dict.fromkeys(table["subset"].to_pylist()))
    shares = Pictures(load_image, PICTURE_BYTES)
    shown: list[Gathered] = []
    totals: dict[str, int] = {}
    groups = _by_subset(gather(loaded.cases))
    chosen = {subset: _spread(groups.get(subset, []), limit) for subset in subsets}
    # Subset by subset in turns, so that a page that is full still shows all of them.
    for turn in range(limit):
        for subset in subsets:
            if turn < len(chosen[subset]) and not shares.full:
                shown.append(_with_pictures(chosen[subset][turn], loaded.info.name, shares))
    for subset, task in zip(table["subset"].to_pylist(), table["task"].to_pylist(), strict=True):
        name = f"{wording.words(subset)}, {wording.task_label(task)}"
        totals[name] = totals.get(name, 0) + 1
    return render(
        "explore.html.j2",
        title=loaded.title or loaded.info.title,
        info=loaded.info,
        official=loaded.official,
        notes=loaded.notes,
        shown=shown,
        totals=totals,
        subsets=subsets,
        total=sum(len(items) for items in groups.values()),
        cases=table.num_rows,
        images=len(loaded.cases.pictures()),
        texts=len(loaded.cases.references("text")),
        max_texts=_MAX_TEXTS,
    )


def gather(cases: CaseSet) -> list[Gathered]:
    """Group the pictures of a case set: those that are candidates of one question stand together.

    Candidates of a shared pool do not make a group: there each picture stands alone with its texts.
    """
    rows = cases.table.select(["subset", "category", "query_kind", "query", "candidate_kind", "candidates", "pool", "labels"]).to_pylist()
    parent: dict[tuple[str, str], tuple[str, str]] = {}
    facts: dict[tuple[str, str], Member] = {}
    categories: dict[tuple[str, str], dict[str, None]] = {}
    lies_in = {} if cases.regions is None else dict(zip(*(cases.regions[name].to_pylist() for name in ("region_id", "key")), strict=True))
    for row in rows:
        if row["query_kind"] == "region":  # a region stands for its picture, beside which its right classes are listed
            row |= {"query_kind": "image", "query": lies_in[row["query"]]}
        candidates: Sequence[str] = row["candidates"] if row["pool"] is None else cases.pools[row["pool"]]
        right = [candidates[label] for label in row["labels"]]
        if row["query_kind"] == "image":
            keys, pairs = [row["query"]], [(row["query"], text) for text in right]
        else:
            keys = right if row["pool"] is not None else list(candidates)
            pairs = [(key, row["query"]) for key in right]
        nodes = [(row["subset"], key) for key in keys]
        for node in nodes:
            parent.setdefault(node, node)
            facts.setdefault(node, Member(node[1]))
            categories.setdefault(node, {}).update({row["category"]: None} if row["category"] else {})
        for node in nodes[1:] if row["pool"] is None else ():
            parent[_root(parent, node)] = _root(parent, nodes[0])
        for key, text in pairs:
            facts[row["subset"], key].right[text] = None
        if row["query_kind"] == "image" and row["pool"] is None:
            facts[row["subset"], row["query"]].wrong.update(dict.fromkeys(text for text in candidates if text not in right))
    together: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for node in parent:
        together.setdefault(_root(parent, node), []).append(node)
    return [_gathered(nodes, facts, categories) for nodes in together.values()]


def _root(parent: dict[tuple[str, str], tuple[str, str]], node: tuple[str, str]) -> tuple[str, str]:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _gathered(
    nodes: list[tuple[str, str]], facts: Mapping[tuple[str, str], Member], categories: Mapping[tuple[str, str], dict[str, None]]
) -> Gathered:
    claimed = {text for node in nodes for text in facts[node].right}
    members = []
    for node in nodes[:_MAX_IMAGES]:
        member = facts[node]
        # A text that another picture of the group is right for stands there already.
        members.append(Member(member.key, member.right, {text: None for text in member.wrong if text not in claimed}))
    found = dict.fromkeys(category for node in nodes for category in categories[node])
    return Gathered(nodes[0][0], list(found), members, len(nodes) - len(members))


def _by_subset(groups: Iterable[Gathered]) -> dict[str, list[Gathered]]:
    found: dict[str, list[Gathered]] = {}
    for group in groups:
        found.setdefault(group.subset, []).append(group)
    return found


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` items at even distances."""
    return items if len(items) <= count else [items[position * len(items) // count] for position in range(count)]


def _with_pictures(group: Gathered, benchmark: str, shares: Pictures) -> Gathered:
    side = 320 if len(group.members) == 1 else 224 if len(group.members) <= 4 else 176
    for member in group.members:
        member.picture = shares.get(benchmark, member.key, side)
    return group
