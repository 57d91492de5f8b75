"""A run folder as an evaluation leaves it: real photographs and captions, invented scores, two benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fgray.runs import QUARANTINE_SCHEMA, SAMPLE_SCHEMA, RunFolder

PLACES = ["top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDINGS = {
    "absolute_size": ["the dog is large in the image", "the dog is medium-sized in the image", "the dog is small in the image"],
    "relative_size": ["the dog is smaller than the cup", "the dog is equal-size with the cup", "the dog is bigger than the cup"],
    "absolute_spatial": [f"the dog is in the {place} of the image" for place in PLACES],
    "relative_spatial": [f"the dog is {place} the cup" for place in ("to the left of", "to the right of", "on top of", "below")],
    "existence": ["there is a dog in the image", "there is no dog in the image"],
    "count": [f"a photo of {count} dogs" for count in NUMBERS],
}
HOSTILE = [
    "<script>document.title='owned'</script> a dog",
    '"quoted" \'single\' & <b>bold</b> onerror="alert(1)" {{ 7*7 }}',
    "כלב שחור רץ על הדשא الكلب يركض",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 30,
    "a very long caption about a dog " * 120,
]


def caption_rows(root: Path) -> list[dict[str, Any]]:
    """The test photographs of Flickr8k with their captions."""
    lines = (root / "flickr8k" / "captions.jsonl").read_text("utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == "test"]


def sample(benchmark: str, subset: str, task: str, name: str, scores: list[float], label: int, **fields: Any) -> dict[str, Any]:
    """One row of samples.parquet for a small candidate set with one right answer."""
    wrong = [value for position, value in enumerate(scores) if position != label]
    row = {
        "benchmark": benchmark,
        "subset": subset,
        "task": task,
        "case_id": f"{subset}/{task}/{name}",
        "cluster_id": name.split("-")[0],
        "shown": list(range(len(scores))),
        "scores": scores,
        "labels": [label],
        "prediction": int(np.argmax(scores)),
        "num_candidates": len(scores),
        "num_positives": 1,
        "greater": sum(value > scores[label] for value in wrong),
        "tied": sum(value == scores[label] for value in wrong),
        "tied_before": sum(value == scores[label] for value in scores[:label]),
        "tied_positives": 1,
        "margin": scores[label] - max(wrong),
    }
    return {**row, **fields}


def entry(value: float, count: int, chance: float, **fields: Any) -> dict[str, Any]:
    """One entry of metrics.json."""
    spread = 1.96 * (max(value * (1 - value), 0.02) / count) ** 0.5
    bounds = [max(0.0, round(value - spread, 4)), min(1.0, round(value + spread, 4))]
    plain = {"value": value, "count": count, "correct": round(value * count), "ci95": bounds, "chance": chance, "ties": 1}
    return {**plain, "excluded": 0, "near_ties": 0, "clusters": count // 2, **fields}


def spec_style_samples(keys: list[str], cases: int, seed: int = 0, skill: float = 0.02) -> list[dict[str, Any]]:
    """Both directions of the six subsets; every photograph stands for a composed picture."""
    draw = np.random.default_rng(seed)
    rows = []
    for number, (subset, texts) in enumerate(WORDINGS.items()):
        size = len(texts)
        for case in range(cases):
            images = [keys[(number * 97 + case * size + position) % len(keys)] for position in range(size)]
            for position in range(size):
                for task, kinds in (("i2t", ("image", "text")), ("t2i", ("text", "image"))):
                    scores = [float(value) for value in draw.normal(0.24, 0.02, size)]
                    scores[position] += skill
                    query, candidates = (images[position], texts) if task == "i2t" else (texts[position], images)
                    fields = {"query_kind": kinds[0], "query": query, "candidate_kind": kinds[1], "candidates": candidates}
                    rows.append(sample("spec_style", subset, task, f"{case:04d}-{position}", scores, position, **fields))
    return rows


def spec_style_metrics() -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Definitions, entries and controls in the shape that an evaluation writes."""
    definitions, entries, controls = [], {}, {}
    values = {
        "absolute_size": 0.41,
        "relative_size": 0.335,
        "absolute_spatial": 0.118,
        "relative_spatial": 0.26,
        "existence": 0.72,
        "count": 0.16,
    }
    for subset, texts in WORDINGS.items():
        chance = 1 / len(texts)
        for task, shift in (("i2t", 0.02), ("t2i", -0.02)):
            name = f"spec_style/{subset}/{task}_accuracy"
            definitions.append(
                {"type": "metric", "name": name, "subset": subset, "task": task, "k": 1, "ties": "first", "per_category": False}
            )
            entries[name] = entry(values[subset] + shift, 180, chance)
            controls[f"spec_style/{subset}/pixel_oracle_{task}_accuracy"] = {
                "value": 1.0,
                "count": 180,
                "correct": 180,
                "chance": chance,
                "note": "differences to the background",
            }
            controls[f"spec_style/{subset}/shuffled_{task}_accuracy"] = {
                **entry(chance + shift / 2, 180, chance),
                "note": "labels drawn at random: must lie at chance",
            }
        parts = [f"spec_style/{subset}/{task}_accuracy" for task in ("i2t", "t2i")]
        definitions.append({"type": "macro", "name": f"spec_style/{subset}/accuracy", "parts": parts})
        entries[f"spec_style/{subset}/accuracy"] = entry(values[subset], 360, chance, correct=None)
    for suffix in ("i2t_accuracy", "t2i_accuracy", "accuracy"):
        parts = [f"spec_style/{subset}/{suffix}" for subset in WORDINGS]
        definitions.append({"type": "macro", "name": f"spec_style/macro/{suffix}", "parts": parts})
        entries[f"spec_style/macro/{suffix}"] = entry(sum(values.values()) / 6, 1080, 0.2759, correct=None)
    return definitions, entries, controls


def retrieval_samples(captions: list[dict[str, Any]], hostile: bool) -> list[dict[str, Any]]:
    """Text queries over a pool of 500 photographs, the ten best listed; the hostile texts come as queries."""
    draw = np.random.default_rng(1)
    texts = (HOSTILE if hostile else []) + [row["captions"][0] for row in captions[:25]]
    rows = []
    for number, text in enumerate(texts):
        scores = sorted((float(value) for value in draw.normal(0.3, 0.02, 10)), reverse=True)
        rank = 12 if text in HOSTILE else number % 14  # of the right photograph; beyond the ten best it is not listed
        shown = [(number * 7 + step * 11) % 500 for step in range(10)]
        right = shown[rank] if rank < 10 else 499
        margin = scores[rank] - scores[0 if rank else 1] if rank < 10 else -0.2 - 0.1 * (text in HOSTILE)
        fields = {"query_kind": "text", "query": text, "candidate_kind": "image", "pool": "images", "shown": shown, "labels": [right]}
        fields |= {"candidates": [captions[position]["image"] for position in shown], "prediction": shown[0], "num_candidates": 500}
        fields |= {"greater": rank, "tied": 0, "tied_before": 0, "margin": margin}
        rows.append(sample("retrieval/flickr8k", "flickr8k", "image_retrieval", f"{number:04d}", scores, 0) | fields)
    return rows


def benchmark(title: str, **fields: Any) -> dict[str, Any]:
    """What run.json says about a benchmark."""
    plain = {"title": title, "summary": "Six attributes, one changed at a time.", "url": "https://example.org/data", "licence": "CC BY 4.0"}
    plain |= {"bibtex": "@inproceedings{spec,\n  title = {Synthesize, Diagnose, and Optimize},\n  year = {2024}\n}", "official": False}
    return {**plain, "notes": [], "counts": {}, "ties": "first", "published": [], "primary": [], "metrics": [], **fields}


def write_sample_run(root: Path, folder: Path, cases: int = 3, hostile: bool = True, both: bool = True, **better: Any) -> RunFolder:
    """Write the run folder and return it; image keys are paths below the data root."""
    captions = [{**row, "image": f"flickr8k/{row['image']}"} for row in caption_rows(root)]
    keys = sorted(path.relative_to(root).as_posix() for path in (root / "coco128" / "val2017").glob("*.jpg"))
    definitions, entries, controls = spec_style_metrics()
    rows = spec_style_samples(keys, cases, **better)
    nearly, tied = rows[1], rows[3]
    nearly["margin"] = 2e-6
    tied.update(scores=[0.25] * 3, prediction=0, greater=0, tied=2, tied_before=tied["labels"][0], margin=0.0)
    rows[5].update(
        excluded="query image is quarantined", scores=None, prediction=None, greater=None, tied=None, tied_before=None, margin=None
    )
    published = [{"model": "CLIP ViT-B/32", "source": "the benchmark's repository", "values": {"spec_style/existence/i2t_accuracy": 0.57}}]
    benchmarks = {
        "spec_style": benchmark("SPEC-style, not SPEC", metrics=definitions, published=published, primary=["spec_style/macro/accuracy"])
    }
    if both:
        rows += retrieval_samples(captions, hostile)
        name = "retrieval/flickr8k/image_retrieval_recall@"
        made = [
            {"type": "metric", "name": f"{name}{k}", "subset": "flickr8k", "task": "image_retrieval", "k": k, "ties": "wrong"}
            for k in (1, 5, 10)
        ]
        tables = [{"model": "CLIP ViT-L/14", "source": "its paper, table 3", "values": {f"{name}1": 0.611}}]
        fields = {"official": True, "licence": "research only", "published": tables, "metrics": made, "url": "javascript:alert(1)"}
        benchmarks["retrieval/flickr8k"] = benchmark("Flickr8k retrieval", **fields)
        entries |= {f"{name}{k}": entry(value, 2500, k / 500, ties=2, near_ties=3) for k, value in ((1, 0.12), (5, 0.28), (10, 0.396))}
    card = {
        "name": "lite0-minilm",
        "kind": "lite0-minilm",
        "architecture": "EfficientNet-Lite0 + MiniLM, centred ConSE",
        "weights": "ImageNet-1k; all-MiniLM-L6-v2",
    }
    card |= {"activation": "relu6", "dtype": "fp32", "image_size": [224, 224], "context_length": 256, "notes": ["Not a pretrained CLIP."]}
    card["preprocess"] = {"resize": "short side 224, bicubic", "crop": "centre", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    run = {
        "name": f"quickstart{better.get('seed', '')}",
        "job": "eval",
        "created_by": "fgray 0.1.0",
        "config": {"job": "eval", "name": "quickstart", "model": {"kind": "lite0-minilm"}, "stats": {"level": "${LEVEL}"}},
        "stats": {"level": 0.95, "resamples": 10000, "seed": 0},
        "model": {"card": card, "fingerprint": "5f1d" * 16},
        "numerics": {"device": "cpu", "dtype": "fp32", "batch_size": 32, "threads": 1},
        "packages": {"python": "3.12.4", "torch": "2.14.0", "ray": None},
        "benchmarks": benchmarks,
        "items": {"requested": 1510, "scored": 1508, "quarantined": 2, "truncated_texts": 1},
    }
    made = RunFolder(str(folder))
    made.write_json(made.RUN, run)
    made.write_json(
        made.METRICS, {"fingerprints": {"config": "ab" * 32, "data": {"spec_style": "cd" * 32}}, "metrics": entries, "controls": controls}
    )
    made.write_table(
        made.SAMPLES,
        pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA).sort_by([(c, "ascending") for c in ("benchmark", "subset", "task", "case_id")]),
    )
    broken = {
        "benchmark": "spec_style",
        "key": "count/007/<img src=x onerror=alert(1)>",
        "shard": "count.tar",
        "stage": "decode",
        "error": "truncated file",
    }
    made.write_table(made.QUARANTINE, pa.Table.from_pylist([broken], schema=QUARANTINE_SCHEMA))
    return made
