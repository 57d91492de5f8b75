"""The report of one evaluation: one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from fgray.errors import NotFound
from fgray.report import cards as gallery
from fgray.report import wording
from fgray.report.page import render, write_page
from fgray.report.pictures import LoadImage, Pictures
from fgray.report.planned import basis, planned_and_measured
from fgray.report.timeline import Timeline, draw, legend, read_timeline
from fgray.report.views import benchmark_views, verdict
from fgray.runs import QUARANTINE_SCHEMA, RunFolder

PICTURE_BYTES = 4_500_000
_QUARANTINE_ROWS = 200


def write_report(run: RunFolder, load_image: LoadImage) -> str:
    """Write ``report.html`` from the run folder's other files and return its URI.

    Args:
        run: folder with run.json, metrics.json, samples.parquet and, where there are any, quarantine.parquet and regions.parquet.
        load_image: (benchmark, image key) -> encoded image, for the gallery's thumbnails.

    Raises:
        NotFound: run.json, metrics.json or samples.parquet is missing.
        StorageError: the page cannot be written.
    """
    try:
        quarantine = run.read_table(run.QUARANTINE)
    except NotFound:
        quarantine = QUARANTINE_SCHEMA.empty_table()
    page = report_page(
        run.read_run(), run.read_json(run.METRICS), run.read_table(run.SAMPLES), quarantine, load_image, run.regions(), read_timeline(run)
    )
    return write_page(page, f"{run.uri.rstrip('/')}/{run.REPORT}")


def report_page(
    run: Mapping[str, Any],
    metrics: Mapping[str, Any],
    samples: pa.Table,
    quarantine: pa.Table,
    load_image: LoadImage,
    regions: pa.Table | None = None,
    timeline: Timeline | None = None,
) -> str:
    """Return the report as HTML text, at most about 6 MB whatever the number of samples."""
    views = benchmark_views(run, metrics)
    card = (run.get("model") or {}).get("card") or {}
    model = str(card.get("name") or "The model")
    level = (run.get("stats") or {}).get("level", 0.95)  # resolved; the configuration may say ${LEVEL}
    items = run.get("items") or {}
    policies = gallery.tie_policies(run)
    failed, passed = gallery.select(samples, policies)
    asked = gallery.regions_of(regions, samples.take([*failed, *passed])["query"].to_pylist())
    pictures = Pictures(load_image, int(PICTURE_BYTES * 0.65))
    failures = gallery.build(samples, failed, policies, pictures, asked)
    pictures = Pictures(load_image, PICTURE_BYTES - pictures.spent)
    successes = gallery.build(samples, passed, policies, pictures, asked)
    near_count, near_rows = gallery.near_ties(samples)
    return render(
        "report.html.j2",
        run=run,
        name=str(run.get("name") or "run"),
        title=views[0].title if len(views) == 1 else str(run.get("name") or "Evaluation"),
        model=model,
        card=card,
        level=wording.percent(level).removesuffix(".0"),
        verdict=verdict(model, views, level),
        views=views,
        unofficial=[view for view in views if not view.official],
        galleries=[("failure", "Failures", failures, len(failed)), ("success", "Successes", successes, len(passed))],
        filters=_filters(failures + successes),
        card_sentence=gallery.card_sentence,
        shares=bool(asked),
        sample_count=samples.num_rows,
        near_count=near_count,
        near_rows=near_rows,
        near_tie="10⁻⁵",
        quarantine=quarantine.slice(0, _QUARANTINE_ROWS).to_pylist(),
        quarantine_count=quarantine.num_rows,
        course=course(run, timeline),
        items=items,
        facts=flat_facts({name: value for name, value in items.items() if name != "numerics_classes"}),
        classes=len(items.get("numerics_classes") or ()),
        fingerprints=flat_facts({"model": (run.get("model") or {}).get("fingerprint"), **(metrics.get("fingerprints") or {})}),
        numerics=flat_facts(run.get("numerics") or {}),
        packages=flat_facts(run.get("packages") or {}),
        config=json.dumps(run.get("config") or {}, indent=2, ensure_ascii=False),
        ties=wording.TIES,
    )


def course(run: Mapping[str, Any], timeline: Timeline | None) -> dict[str, Any] | None:
    """Return what the page says of how a run went; None where nothing is known of it."""
    planned = planned_and_measured(run)
    if not planned and timeline is None:
        return None
    said, picture, signs = ("", None, []) if timeline is None else (timeline.sentence(), draw(timeline), legend(timeline))
    return {"planned": planned, "basis": basis(run), "timeline": said, "picture": picture, "legend": signs}


def _filters(shown: list[gallery.Card]) -> dict[str, list[str]]:
    """The values that the gallery's select fields offer."""
    return {name: list(dict.fromkeys(getattr(card, name) for card in shown)) for name in ("benchmark", "subset", "task")}


def flat_facts(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as one level of ``a.b`` -> text; nothing for None."""
    found: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat_facts(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = _plain(value)
    return found


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return wording.number(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
