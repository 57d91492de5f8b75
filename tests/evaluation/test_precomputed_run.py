"""Scores and embeddings made elsewhere give the samples and metrics that the model itself gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgray.config.schema import StatsConfig, TinyModel
from fgray.errors import DataError
from fgray.evaluation.compare import compare_runs
from fgray.models import open_model
from tests.benchmarks.layouts import noise, run, write_spec

TINY = {"kind": "tiny"}


@pytest.fixture
def benchmarks(tmp_path: Path) -> list[dict[str, Any]]:
    write_spec(tmp_path / "spec", {"existence": 2, "count": 3}, sets=3)
    lines = []
    for number in range(12):
        noise(tmp_path / f"captions/{number}.png", 100 + number)
        lines.append(
            json.dumps({"image": f"{number}.png", "captions": [f"a photo of {number} cats", f'{number} dogs, "two" trees']}) + "\n"
        )
        noise(tmp_path / f"classes/class_{number % 3}/{number}.png", 200 + number)
    (tmp_path / "captions/captions.jsonl").write_text("".join(lines))
    return [
        {"name": "spec", "root": str(tmp_path / "spec"), "subsets": ["existence", "count"]},
        {"name": "retrieval", "root": str(tmp_path / "captions")},
        {"name": "zero_shot", "root": str(tmp_path / "classes"), "templates": ["a photo of a {c}.", "{c}"]},
    ]


def vectors(root: Path, texts: list[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Embed everything with the model directly, images under their keys."""
    source = open_model(TinyModel(kind="tiny"))
    encoder = source.load("cpu")
    images = {}
    for base in ("spec", "captions", "classes"):
        for path in sorted((root / base).rglob("*.png")):
            pixels = source.preprocess(Image.open(path).convert("RGB"))
            images[str(path.relative_to(root / base)).removesuffix(".png")] = encoder.embed_images(pixels[None])[0]
    return images, {text: encoder.embed_texts([text]).values[0] for text in texts}


def asked_texts(samples: dict[str, dict[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    for row in samples.values():
        if row["query_kind"] == "text":
            found[row["query"]] = None
        if row["candidate_kind"] == "text":
            found.update(dict.fromkeys(row["candidates"]))
    for number in range(3):
        found.update(dict.fromkeys([f"a photo of a class {number}.", f"class {number}"]))
    return list(found)


def same(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> None:
    assert ours.keys() == theirs.keys()
    for case, row in ours.items():
        other = theirs[case]
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-5)
        if row["margin"] is not None and abs(row["margin"]) > 1e-5:
            assert [row[name] for name in ("greater", "num_candidates", "labels")] == [
                other[name] for name in ("greater", "num_candidates", "labels")
            ]


def test_embeddings_and_scores_stand_in_for_the_model(tmp_path: Path, benchmarks: list[dict[str, Any]]) -> None:
    result, samples = run(tmp_path / "model", benchmarks, TINY)
    images, texts = vectors(tmp_path, asked_texts(samples))
    for kind, table in (("image", images), ("text", texts)):
        np.save(tmp_path / f"{kind}.npy", 3 * np.stack(list(table.values())))  # lengths do not matter
        (tmp_path / f"{kind}.keys.txt").write_text("\n".join(table) + "\n")
    files = {f"{kind}_embeddings": str(tmp_path / f"{kind}.npy") for kind in ("image", "text")}
    embedded, rows = run(tmp_path / "embedded", benchmarks, {"kind": "precomputed", "name": "tiny elsewhere", **files})
    same(samples, rows)
    assert embedded.metrics.keys() == result.metrics.keys()
    comparison = compare_runs(str(tmp_path / "model"), str(tmp_path / "embedded"), StatsConfig(resamples=100))
    assert all(abs(item.difference) < 1e-12 for item in comparison.metrics) and comparison.flips == []

    pairs = [(image, text, float(a.astype(float) @ b.astype(float))) for image, a in images.items() for text, b in texts.items()]
    columns = dict(zip(("image", "text", "score"), zip(*pairs, strict=True), strict=True))
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), tmp_path / "scores.parquet")
    model = {"kind": "precomputed", "name": "tiny elsewhere", "scores": str(tmp_path / "scores.parquet")}
    one_template = [*benchmarks[:2], {**benchmarks[2], "templates": ["{c}"]}]
    _, rows = run(tmp_path / "scores", one_template, model)
    _, again = run(tmp_path / "again", one_template, TINY)
    same(again, rows)
    with pytest.raises(DataError, match="averages 2 prompts, which pair scores cannot do"):
        run(tmp_path / "refused", benchmarks, model)
