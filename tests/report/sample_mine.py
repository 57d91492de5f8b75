"""A mining run made of Flickr8k photographs, captions and invented numbers, for tests of its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fgray.data.negatives import NEGATIVE_SCHEMA, to_parquet
from fgray.runs import QUARANTINE_SCHEMA, RunFolder
from tests.report.sample_run import HOSTILE, caption_rows

TRANSFORMS = ["exact", "reencoded", "cropped", "rescaled", "flipped"]
CHAIN = ["same_image", "near_duplicate_images", "num_negatives"]


def negative(ref: str, score: float, margin: float | None, rank: int, **fields: Any) -> dict[str, Any]:
    """One negative as mining writes it."""
    plain = {"ref": ref, "score": score, "margin": margin, "rank": rank, "type": "mined", "valid": True, "source": "5f1d5f1d5f1d"}
    return {**plain, "reason": f"rank {rank} of 50, {abs(margin or 0):.2f} below its positive; passed same_image", **fields}


def negative_rows(captions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of four directions and of edits, with hostile captions among them."""
    draw = np.random.default_rng(3)
    rows = []
    for number, row in enumerate(captions[:40]):
        others = captions[40 + number : 46 + number]
        text = HOSTILE[number] if number < len(HOSTILE) else row["captions"][0]
        scores = sorted(draw.uniform(0.1, 0.3, 6).tolist(), reverse=True)
        margins = [0.2 - score for score in scores]

        def found(refs: list[str], scores: list[float] = scores, margins: list[float] = margins) -> list[dict[str, Any]]:
            parts = zip(refs, scores, margins, strict=True)
            return [negative(ref, score, margin, place * 3 + 1) for place, (ref, score, margin) in enumerate(parts)]

        image, pictures, texts = row["image"], [other["image"] for other in others], [other["captions"][1] for other in others]
        pair = {"positive_score": 0.2}
        rows += [
            line("image_to_text", "image", image, "text", text, "text", found(texts), **pair),
            line("text_to_image", "text", text, "image", image, "image", found(pictures), **pair),
            line("image_to_image", "image", image, None, None, "image", [{**item, "margin": None} for item in found(pictures)]),
        ]
        words = text.split()
        if len(words) > 3:
            edited = " ".join([*words[:2], "purple", *words[3:]])
            start = len(" ".join(words[:2])) + 1
            fields = {
                "type": "adjective",
                "start": start,
                "end": start + 6,
                "original": words[2],
                "score": None,
                "margin": None,
                "rank": None,
            }
            rows.append(
                line("text_edit", "text", text, None, None, "text", [{**negative(edited, 0, None, 0), **fields, "reason": "an edit"}])
            )
    return rows


def line(
    direction: str, anchor_kind: str, anchor: str, positive_kind: str | None, positive: str | None, kind: str, found: Any, **fields: Any
) -> dict[str, Any]:
    """One row of the negatives file."""
    names = ("direction", "anchor_kind", "anchor", "positive_kind", "positive", "negative_kind", "negatives")
    return {**dict(zip(names, (direction, anchor_kind, anchor, positive_kind, positive, kind, found), strict=True)), **fields}


def counts(kept: int, dropped: dict[str, int], rows: int) -> dict[str, Any]:
    """One direction of metrics.json under "mining"."""
    edges = np.linspace(-1, 1, 81).round(6).tolist()
    total = sum(dropped.values())

    def histogram(centre: float) -> dict[str, Any]:
        shape = np.exp(-((np.array(edges[:-1]) - centre) ** 2) / 0.005)
        shape[np.array(edges[:-1]) < centre - 0.25] = 0
        parts = ((shape * count / shape.sum()).astype(int) for count in (kept, total))
        return {"edges": edges, **{name: part.tolist() for name, part in zip(("kept", "dropped"), parts, strict=True)}}

    plain = {"anchors": rows // 2, "rows": rows, "candidates": kept + total, "kept": kept, "dropped": dropped, "short_rows": 3}
    return {**plain, "score_histogram": histogram(0.2), "margin_histogram": histogram(0.05)}


def judged(catches: dict[str, int], lost: int, seen: int) -> dict[str, Any]:
    """One filter of the audit; 40 of each transform were injected, 38 retrieved."""
    rows: dict[str, Any] = {
        name: {"injected": 40, "retrieved": 38, "caught": hits, "survived": 38 - hits, "recall": hits / 38, "ci95": [0.5, 1.0]}
        for name, hits in catches.items()
    }
    best, hard = min(lost, 31), min(seen, 400)
    return {
        **rows,
        "true_negatives": {"seen": seen, "lost": lost, "share": lost / seen if seen else None, "ci95": [0.0, 0.1]},
        "hardest_true_negatives": {"seen": hard, "lost": best, "share": best / hard if hard else None, "ci95": [0.0, 0.2]},
    }


def audit() -> dict[str, Any]:
    """Both directions of metrics.json under "audit"."""
    none = dict.fromkeys(TRANSFORMS, 0)
    images = {"exact": 38, "reencoded": 38, "cropped": 31, "rescaled": 38, "flipped": 36}
    points = [
        {
            "threshold": step,
            "recall": {"exact": 1.0 if step else 0.5, "transformed": min(1.0, 0.4 + step / 20)},
            "lost": step**2 / 900,
            "hardest": step / 30,
        }
        for step in range(0, 25, 2)
    ]
    curve = {"filter": "near_duplicate_images", "option": "hash_distance", "current": 12.0, "points": points}
    cosine = [
        {"threshold": 0.5 + step / 50, "recall": {"exact": 1.0, "transformed": None}, "lost": 0.5 - step / 50, "hardest": None}
        for step in range(26)
    ]
    other = {"filter": "near_duplicate_images", "option": "cosine", "current": None, "points": cosine}
    filters = {"same_image": judged(none, 0, 1800), "near_duplicate_images": judged(images, 41, 1800), "chain": judged(images, 41, 1800)}
    texts = {"same_image": judged({"paraphrase": 0, "recased": 38}, 0, 0), "chain": judged({"paraphrase": 2, "recased": 38}, 120, 1700)}
    linked = {"same_image": {"due": 190, "caught": 190, "recall": 1.0}, "same_label": {"due": 0, "caught": 0, "recall": None}}
    return {
        "text_to_image": {"anchors": 40, "filters": filters, "links_visible": linked, "curves": [curve, other]},
        "image_to_text": {"anchors": 40, "filters": texts, "links_visible": {}, "curves": []},
    }


def riskiest(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The survivors with the smallest margins, one for each anchor, direction by direction as mining lists them."""
    pairs = [(row, row["negatives"][0]) for row in rows if row["positive"] is not None]
    pairs.sort(key=lambda pair: (pair[0]["direction"], pair[1]["margin"]))
    names = ("direction", "anchor", "positive")
    return [
        {**{name: row[name] for name in names}, "negative": item["ref"], **{name: item[name] for name in ("score", "margin", "rank")}}
        for row, item in [*pairs[:count], *pairs[-count:]]
    ]


def write_sample_mine(root: Path, folder: Path) -> RunFolder:
    """Write the run folder; image keys are paths below Flickr8k's folder."""
    rows = negative_rows(caption_rows(root))
    run = {
        "name": "mine-quickstart",
        "job": "mine",
        "created_by": "fgray 0.1.0",
        "config": {"job": "mine", "filters": ["same_image", {"name": "near_duplicate_images"}, {"name": "num_negatives", "value": 5}]},
        "model": {"card": {"name": "lite0-minilm", "notes": ["Not a pretrained CLIP."]}, "fingerprint": "5f1d" * 16},
        "timing": {"seconds": 61.5},
    }
    mining = {
        "image_to_text": counts(60_000, dict(zip(CHAIN, (4_000, 0, 61_000), strict=True)), 12_500),
        "text_to_image": counts(59_000, dict(zip(CHAIN, (12_500, 2_300, 600_000), strict=True)), 12_500),
        "image_to_image": {**counts(12_000, dict(zip(CHAIN, (0, 900, 112_000), strict=True)), 2_500), "margin_histogram": None},
    }
    made = RunFolder(str(folder))
    made.write_json(made.RUN, run)
    made.write_json(
        made.METRICS, {"fingerprints": {"data": ["cd" * 32]}, "mining": mining, "audit": audit(), "riskiest": riskiest(rows, 25)}
    )
    made.storage.write_bytes("negatives.parquet", to_parquet(pa.Table.from_pylist(rows, schema=NEGATIVE_SCHEMA), {"model": "5f1d" * 16}))
    broken = {"benchmark": "pairs", "key": "<b>x</b>", "shard": "a.tar", "stage": "decode", "error": "truncated file"}
    made.write_table(made.QUARANTINE, pa.Table.from_pylist([broken], schema=QUARANTINE_SCHEMA))
    return made
