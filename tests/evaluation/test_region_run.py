"""An evaluation whose queries are regions of pictures, end to end, against a brute-force scorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fgray.benchmarks.base import BENCHMARKS, BenchmarkInfo, LoadedBenchmark
from fgray.config.schema import EvalJob, TinyModel
from fgray.data.cases import CaseSet
from fgray.data.decode import decode_image
from fgray.data.geometry import resize_picture
from fgray.data.index import open_images
from fgray.data.regions import region_table
from fgray.engine.gc import collect
from fgray.errors import DataError, ModelError
from fgray.evaluation import evaluate, plan_evaluation
from fgray.evaluation.scorers import precomputed_scorer
from fgray.metrics.spec import Metric
from fgray.models import open_model
from fgray.models.dense import dense_tokens
from tests.models.dense_reference import roi, unit
from tests.small_data import write_picture

CLASSES = {"dog": ["a dog.", "one dog."], "cat": ["a cat."], "tree": ["a tree.", "the tree.", "trees."]}


@BENCHMARKS.register("boxes_for_a_test")
class Boxes:
    """Twelve boxes in four pictures, each to be named."""

    def __init__(self, mode: str = "roi") -> None:
        self.mode = mode

    def load(self, root: str | None, cache: str) -> LoadedBenchmark:
        names = list(CLASSES)
        draw = np.random.default_rng(0)
        rows = [
            {
                "region_id": f"r{n}",
                "key": f"p{n % 4}",
                "mode": self.mode,
                "enlarge": 1.5 if self.mode == "crop" else 1.0,
                **dict(zip("xywh", (*draw.uniform(0, 30, 2), *draw.uniform(10, 34, 2)), strict=True)),
            }
            for n in range(12)
        ]
        cases = [
            {
                "case_id": f"c{n}",
                "subset": "all",
                "task": "classify",
                "cluster_id": f"p{n % 4}",
                "category": names[n % 3],
                "query_kind": "region",
                "query": f"r{n}",
                "candidate_kind": "prototype",
                "pool": "classes",
                "labels": [n % 3],
            }
            for n in range(12)
        ]
        loaded = CaseSet.from_rows(cases, pools={"classes": names}, prototypes=CLASSES, regions=region_table(rows))
        info = BenchmarkInfo("boxes_for_a_test", "boxes", "", "", "", "", ties="wrong")
        metrics = [Metric("boxes_for_a_test/acc1", subset="all", task="classify")]
        return LoadedBenchmark(info, loaded, open_images(str(root), cache, keys=loaded.pictures()), metrics)


def job_of(root: Path, output: Path, **changes) -> EvalJob:
    base = {
        "job": "eval",
        "name": "test",
        "model": {"kind": "tiny"},
        "data": {"root": str(root), "max_corrupt_fraction": 0.5},
        "benchmarks": [{"name": "boxes_for_a_test"}],
        "compute": {"runner": "serial", "batch_size": 4, "unit_rows": 8},
        "output": str(output),
    }
    return EvalJob.model_validate({**base, **changes})


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for number in range(4):
        write_picture(tmp_path / "data" / f"p{number}.jpg", number)
    return tmp_path / "data"


def brute_force(root: Path) -> dict[str, list[float]]:
    """Return case -> cosine with each class, every region and prompt by itself."""
    source = open_model(TinyModel(kind="tiny"))
    towers = source.module().eval()
    embed_texts = source.load("cpu").embed_texts
    loaded = Boxes().load(str(root), str(root.parent / "other cache"))
    classes = [unit(embed_texts(prompts).values.astype(float).mean(axis=0)) for prompts in CLASSES.values()]
    scores = {}
    for row in loaded.cases.regions.to_pylist():
        image = decode_image((root / f"{row['key']}.jpg").read_bytes(), 10**6)
        pixels, _ = resize_picture(image, 32, "squash")
        mean, std = np.array(source.preprocess.mean), np.array(source.preprocess.std)
        with torch.inference_mode():
            normal = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
            tokens = dense_tokens(towers, normal)[0].double().numpy()
        x, y, w, h = (row[name] for name in "xywh")
        scale = np.array([32 / image.width, 32 / image.height] * 2) / 8
        found = roi(tokens, tuple(np.array([x, y, x + w, y + h]) * scale))
        scores["c" + row["region_id"][1:]] = [float(found @ one) for one in classes]
    return scores


def test_scores_of_regions_equal_brute_force_case_by_case(photographs: Path, tmp_path: Path) -> None:
    result = evaluate(job_of(photographs, tmp_path / "run"))
    expected = brute_force(photographs)
    right = 0
    for sample in pq.read_table(tmp_path / "run" / "samples.parquet").to_pylist():
        found = dict(zip(sample["shown"], sample["scores"], strict=True))
        np.testing.assert_allclose([found[number] for number in range(3)], expected[sample["case_id"]], atol=1e-6)
        right += int(np.argmax(expected[sample["case_id"]])) == sample["labels"][0]
    metric = result.metrics["boxes_for_a_test/acc1"]
    assert (metric["count"], metric["correct"]) == (12, right)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["items"]["requested"] == 12 + 6 and run["benchmarks"]["boxes_for_a_test"]["regions"] == {"requested": 12}
    assert len(run["items"]["numerics_classes"]) == 1


def test_a_second_run_computes_nothing_and_the_store_keeps_what_it_names(photographs: Path, tmp_path: Path) -> None:
    job = job_of(photographs, tmp_path / "run")
    evaluate(job)
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    assert plan_evaluation(job).work.units == []
    stored = sorted((tmp_path / "run" / "store").rglob("part-*"))
    collect(job.store_uri, [job.output])
    assert sorted((tmp_path / "run" / "store").rglob("part-*")) == stored
    evaluate(job)
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before
    items = pq.read_table(tmp_path / "run" / "items.parquet")
    assert items["kind"].value_counts().to_pylist() == [{"values": "embed_text", "counts": 6}, {"values": "embed_region", "counts": 12}]


def test_a_damaged_picture_excludes_its_regions_and_is_listed(photographs: Path, tmp_path: Path) -> None:
    path = photographs / "p2.jpg"
    path.write_bytes(path.read_bytes()[:300])
    metrics = evaluate(job_of(photographs, tmp_path / "run")).metrics
    metric = metrics["boxes_for_a_test/acc1"]
    assert (metric["count"], metric["excluded"]) == (9, 3)
    quarantine = pq.read_table(tmp_path / "run" / "quarantine.parquet").to_pylist()
    assert [(row["key"], row["shard"], row["stage"]) for row in quarantine] == [(f"r{n}", "p2.jpg", "decode") for n in (10, 2, 6)]


def test_a_box_moved_by_a_pixel_is_another_question(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(job_of(photographs, tmp_path / "a"))
    load = Boxes.load

    def moved(self, root, cache):
        loaded = load(self, root, cache)
        x = pa.array([value + 1 for value in loaded.cases.regions["x"].to_pylist()])
        loaded.cases.regions = loaded.cases.regions.set_column(3, "x", x)
        return loaded

    monkeypatch.setattr(Boxes, "load", moved)
    evaluate(job_of(photographs, tmp_path / "b"))
    prints = [json.loads((tmp_path / run / "metrics.json").read_text())["fingerprints"]["data"] for run in ("a", "b")]
    assert prints[0] != prints[1]


class Flat:
    """An own encoder without dense features: the mean colour, and the length of the text."""

    image_size = 32

    def __init__(self, device: str) -> None:
        self.device = device

    def embed_images(self, pixels):
        return pixels.mean(axis=(1, 2)) + 1.0

    def embed_texts(self, texts):
        return np.array([[len(text), 1.0, 2.0] for text in texts])


def test_models_without_dense_features_are_refused_before_the_run_and_embed_crops(photographs: Path, tmp_path: Path) -> None:
    own = {"kind": "python", "path": "tests.evaluation.test_region_run:Flat"}
    with pytest.raises(ModelError, match="models of kind python give no dense features"):
        plan_evaluation(job_of(photographs, tmp_path / "run", model=own))
    crops = [{"name": "boxes_for_a_test", "mode": "crop"}]
    result = evaluate(job_of(photographs, tmp_path / "crops", model=own, benchmarks=crops))
    assert result.metrics["boxes_for_a_test/acc1"]["count"] == 12


def test_scores_made_elsewhere_know_no_regions(photographs: Path, tmp_path: Path) -> None:
    loaded = Boxes().load(str(photographs), str(tmp_path / "cache"))
    nothing: Any = None
    with pytest.raises(DataError, match="precomputed scores know no regions"):
        precomputed_scorer(loaded, nothing)
