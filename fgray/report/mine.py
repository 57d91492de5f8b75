"""The report of a mining run: what was kept and dropped, what the filters catch and cost, and the negatives themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from fgray.data.negatives import NAME, read_negatives
from fgray.errors import NotFound
from fgray.report import wording
from fgray.report.charts import SERIES, curve, histogram
from fgray.report.html import course, flat_facts
from fgray.report.negatives import choose, risky_cards, sample_cards
from fgray.report.page import render, write_page
from fgray.report.pictures import Pictures
from fgray.report.timeline import read_timeline
from fgray.runs import QUARANTINE_SCHEMA, RunFolder

PICTURE_BYTES = 4_500_000
CHAIN, TRUE, HARDEST = "chain", "true_negatives", "hardest_true_negatives"
_DIRECTIONS = ("image_to_text", "text_to_image", "image_to_image", "text_to_text")
_TRANSFORMS = ("exact", "reencoded", "cropped", "rescaled", "flipped", "transformed", "recased", "paraphrase")


@dataclass(frozen=True)
class Bar:
    """A share of the candidates: kept, or dropped by one filter."""

    name: str
    count: int
    share: float
    kept: bool


@dataclass(frozen=True)
class DirectionView:
    """The numbers of one direction.

    Attributes:
        name: the direction.
        counts: its entry in metrics.json.
        bars: kept, then every filter in the order of the chain.
        score: histogram of all candidates' scores, or None.
        margin: of their margins, or None.
    """

    name: str
    counts: Mapping[str, Any]
    bars: list[Bar]
    score: Markup | None
    margin: Markup | None

    @property
    def per_row(self) -> float:
        """Return the mean number of negatives of a row."""
        return float(self.counts["kept"] / self.counts["rows"]) if self.counts["rows"] else 0.0


@dataclass(frozen=True)
class CurveView:
    """One option of a filter: its picture, and the points as a table."""

    name: str
    current: float | None
    families: list[str]
    points: Sequence[Mapping[str, Any]]
    picture: Markup


@dataclass(frozen=True)
class AuditView:
    """The audit of one direction.

    Attributes:
        name: the direction.
        anchors: audited rows.
        transforms: what was injected, in the order of the columns.
        filters: filter (or "chain") -> transform, "true_negatives" or "hardest_true_negatives" -> counts.
        linked: filter that goes by links -> counts, with links visible.
        curves: the price of thresholds.
    """

    name: str
    anchors: int
    transforms: list[str]
    filters: Mapping[str, Mapping[str, Any]]
    linked: Mapping[str, Mapping[str, Any]]
    curves: list[CurveView]

    @property
    def chain(self) -> Mapping[str, Any]:
        """Return what all filters together did."""
        return self.filters[CHAIN]

    @property
    def caught(self) -> tuple[int, int]:
        """Return how many retrieved false negatives the chain dropped, and of how many."""
        found = [self.chain[transform] for transform in self.transforms]
        return sum(item["caught"] for item in found), sum(item["retrieved"] for item in found)


def write_mine_report(run: RunFolder, load_image: Callable[[str], bytes]) -> str:
    """Write ``report.html`` from the run folder's other files and return its URI.

    Args:
        run: folder with run.json, metrics.json, negatives.parquet and, where anything was set aside, quarantine.parquet.
        load_image: image key -> encoded image, for the cards.

    Raises:
        NotFound: run.json, metrics.json or negatives.parquet is missing.
        DataError: one of them is damaged.
        StorageError: the page cannot be written.
    """
    facts, metrics = run.read_run(), run.read_json(run.METRICS)
    table, _ = read_negatives(f"{run.uri.rstrip('/')}/{NAME}")
    try:
        quarantine = run.read_table(run.QUARANTINE)
    except NotFound:
        quarantine = QUARANTINE_SCHEMA.empty_table()
    riskiest = metrics.get("riskiest") or []
    half = Pictures(lambda _, key: load_image(key), PICTURE_BYTES // 2)
    risky = risky_cards(table, riskiest, half)
    sample = sample_cards(table, choose(table), Pictures(lambda _, key: load_image(key), PICTURE_BYTES - half.spent))
    chain = chain_of(facts)
    views = [direction_view(name, counts, chain) for name, counts in ordered(metrics.get("mining") or {}, _DIRECTIONS).items()]
    audits = [audit_view(name, found, chain) for name, found in ordered(metrics.get("audit") or {}, _DIRECTIONS).items()]
    card = (facts.get("model") or {}).get("card") or {}
    page = render(
        "mine.html.j2",
        run=facts,
        name=str(facts.get("name") or "run"),
        card=card,
        verdict=verdict(views, audits),
        views=views,
        audits=audits,
        approximate=ordered(metrics.get("approximate") or {}, _DIRECTIONS),
        galleries=[("riskiest", "Riskiest survivors", risky, len(riskiest)), ("sample", "A seeded sample", sample, len(sample))],
        directions=list(ordered(dict.fromkeys(card.direction for card in risky + sample), _DIRECTIONS)),
        quarantine=quarantine.slice(0, 200).to_pylist(),
        quarantine_count=quarantine.num_rows,
        fingerprints=flat_facts({"model": (facts.get("model") or {}).get("fingerprint"), **(metrics.get("fingerprints") or {})}),
        items=flat_facts({**(facts.get("items") or {}), "seconds": (facts.get("timing") or {}).get("seconds")}),
        course=course(facts, read_timeline(run)),
        packages=flat_facts(facts.get("packages") or {}),
        config=json.dumps(facts.get("config") or {}, indent=2, ensure_ascii=False),
        series=SERIES,
    )
    return write_page(page, f"{run.uri.rstrip('/')}/{run.REPORT}")


def chain_of(run: Mapping[str, Any]) -> list[str]:
    """Return the names of the configured filters, in order: the keys of metrics.json are sorted."""
    filters = (run.get("config") or {}).get("filters") or []
    return [str(item.get("name")) if isinstance(item, Mapping) else str(item) for item in filters]


def ordered(content: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Return the entries in the given order, unknown ones behind them."""
    places = {name: place for place, name in enumerate(order)}
    return dict(sorted(content.items(), key=lambda entry: (places.get(entry[0], len(places)), entry[0])))


def direction_view(name: str, counts: Mapping[str, Any], chain: Sequence[str]) -> DirectionView:
    """Arrange one direction of metrics.json."""
    total = counts["candidates"]
    bars = [Bar("kept", counts["kept"], counts["kept"] / total if total else 0.0, True)]
    dropped = ordered(counts["dropped"], chain)
    bars += [Bar(filter_, count, count / total if total else 0.0, False) for filter_, count in dropped.items()]
    pictures = [_picture(counts.get(f"{kind}_histogram"), f"{kind}s, {wording.words(name)}") for kind in ("score", "margin")]
    return DirectionView(name, counts, bars, *pictures)


def audit_view(name: str, found: Mapping[str, Any], chain: Sequence[str]) -> AuditView:
    """Arrange one direction of the audit."""
    filters = ordered({key: rows for key, rows in found["filters"].items() if key != CHAIN}, chain)
    filters[CHAIN] = found["filters"][CHAIN]  # last
    transforms = [transform for transform in ordered(filters[CHAIN], _TRANSFORMS) if transform not in (TRUE, HARDEST)]
    curves = [curve_view(item) for item in found.get("curves") or [] if item["points"]]
    return AuditView(name, found["anchors"], transforms, filters, ordered(found.get("links_visible") or {}, chain), curves)


def curve_view(item: Mapping[str, Any]) -> CurveView:
    """Draw one option of a filter."""
    points, current = item["points"], item.get("current")
    name = wording.words(item["filter"]) + ("" if item["option"] == "value" else f", {wording.words(item['option']).lower()}")
    families = list(ordered(points[0]["recall"], _TRANSFORMS))
    lines = {family: [point["recall"][family] for point in points] for family in families}
    thresholds, lost = [point["threshold"] for point in points], [point["lost"] for point in points]
    picture = curve(thresholds, lines, lost, current, f"{name}: recall and price over the threshold")
    return CurveView(name, current, families, points, picture)


def verdict(views: Sequence[DirectionView], audits: Sequence[AuditView]) -> str:
    """Return the run in two sentences."""
    kept = sum(view.counts["kept"] for view in views)
    rows = sum(view.counts["rows"] for view in views)
    text = f"{wording.plural(kept, 'negative')} for {wording.plural(rows, 'pair')} in {wording.plural(len(views), 'direction')}."
    caught, retrieved = (sum(audit.caught[part] for audit in audits) for part in (0, 1))
    lost, seen, best, hard = (sum(audit.chain[kind][part] for audit in audits) for kind in (TRUE, HARDEST) for part in ("lost", "seen"))
    if retrieved and seen:
        share, price, dear = (wording.percent(part) for part in (caught / retrieved, lost / seen, best / hard))
        text += (
            f" The filters catch {share} % of the injected false negatives that were retrieved, and drop {price} % of the true negatives"
        )
        text += f", {dear} % of the hardest ones."
    return text


def _picture(found: Mapping[str, Any] | None, title: str) -> Markup | None:
    """Return a histogram without the empty bins at its ends."""
    if not found:
        return None
    edges, kept, dropped = found["edges"], found["kept"], found["dropped"]
    filled = np.flatnonzero(np.array(kept) + np.array(dropped))
    if not len(filled):
        return None
    low, high = int(filled[0]), int(filled[-1]) + 1
    return histogram(edges[low : high + 1], kept[low:high], dropped[low:high], title)
