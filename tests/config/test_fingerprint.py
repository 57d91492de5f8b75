"""The fingerprint changes with the meaning of a configuration and with nothing else."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fgray.config import config_from_text, fingerprint

BASE = {
    "job": "eval",
    "name": "base",
    "model": {"kind": "open_clip", "arch": "ViT-B-32-quickgelu", "weights": "openai"},
    "data": {"root": "data/spec", "max_corrupt_fraction": 0.01},
    "benchmarks": [{"name": "spec", "subsets": ["count"]}, {"name": "retrieval", "root": "flickr8k"}],
    "output": "runs/base",
}


def of(config: dict, *overrides: str) -> str:
    return fingerprint(config_from_text(yaml.safe_dump(config), "f.yaml", overrides).job)


def shuffled(value: object, draw: st.DataObject) -> object:
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw.draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@given(st.data())
def test_order_and_comments_do_not_matter(data: st.DataObject) -> None:
    text = "# why\n" + yaml.safe_dump(shuffled(BASE, data), sort_keys=False) + "# the end\n"
    assert fingerprint(config_from_text(text, "elsewhere.yaml").job) == of(BASE)


@pytest.mark.parametrize(
    "assignment",
    [
        "name=other",
        "output=s3://bucket/runs",
        "store=s3://bucket/store",
        "cluster=cluster/aws.yaml",
        "data.root=s3://bucket/spec",
        "benchmarks.1.root=s3://bucket/flickr8k",
        "compute.workers=4",
        "compute={batch_size: 7, device: cuda}",
        # Defaults, spelled out.
        "limit=null",
        "stats={level: 0.95, resamples: 10000, seed: 0}",
        "data.max_pixels=178956970",
        "model.dtype=fp32",
        "primary=[]",
    ],
)
def test_locations_and_spelled_out_defaults_do_not_matter(assignment: str) -> None:
    assert of(BASE, assignment) == of(BASE)


@pytest.mark.parametrize(
    "assignment",
    [
        "model.weights=laion2b_s34b_b79k",
        "model.arch=ViT-B-16-quickgelu",
        "model.activation=gelu",
        "model.dtype=bf16",
        "model={kind: tiny}",
        "benchmarks.0.subsets=[count, existence]",
        "benchmarks.1.split=val",
        "benchmarks=[spec]",
        "limit=10",
        "stats.level=0.9",
        "stats.seed=1",
        "primary=[spec/macro/i2t_accuracy]",
    ],
)
def test_meaning_matters(assignment: str) -> None:
    assert of(BASE, assignment) != of(BASE)


def test_a_bare_name_is_short_for_a_section() -> None:
    assert of({**BASE, "benchmarks": ["spec"]}) == of({**BASE, "benchmarks": [{"name": "spec"}]})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "{kind: open_clip, arch: X, weights: /a/w.pt, activation: gelu}",
            "{kind: open_clip, arch: X, weights: 's3://b/v.safetensors', activation: gelu}",
        ),
        ("{kind: hugging_face, path: ./clip}", "{kind: hugging_face, path: /models/clip}"),
        ("{kind: precomputed, name: m, scores: a.csv}", "{kind: precomputed, name: m, scores: s3://b/c.parquet}"),
    ],
)
def test_a_moved_checkpoint_means_the_same(one: str, other: str) -> None:
    assert of(BASE, f"model={one}") == of(BASE, f"model={other}")


def test_a_hub_name_is_no_place() -> None:
    assert of(BASE, "model={kind: hugging_face, path: a/clip}") != of(BASE, "model={kind: hugging_face, path: b/clip}")


def test_variables_count_by_their_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGRAY_TEST_LIMIT", "5")
    assert of(BASE, "limit=${FGRAY_TEST_LIMIT}") == of(BASE, "limit=5") == of(BASE, "limit=${FGRAY_TEST_OTHER:5}")


TRAIN = {
    "job": "train_clip",
    "name": "t",
    "model": {"kind": "trained", "path": "runs/base"},
    "sources": [
        {
            "pairs": {"name": "file", "root": "data/pairs.parquet", "images": "data/images"},
            "negatives": ["runs/mined", "runs/edited"],
            "regions": {"boxes": "data/boxes.json", "captions": "data/captions.json"},
        }
    ],
    "regions": {},
    "losses": ["fineclip"],
    "disjoint_from": [{"name": "retrieval", "root": "data/flickr8k"}],
    "selection": {"benchmarks": [{"name": "retrieval", "root": "data/flickr8k", "split": "val"}], "metric": "m", "every_steps": 1},
    "steps": 2,
    "output": "runs/t",
}


@pytest.mark.parametrize(
    "assignment",
    [
        "model.path=s3://bucket/base",
        "sources.0.pairs.root=s3://bucket/pairs.parquet",
        "sources.0.pairs.images=s3://bucket/images",
        "sources.0.negatives=[/moved/mined, /moved/edited]",
        "sources.0.regions.boxes=files/boxes.json",
        "sources.0.regions.captions=files/captions.json",
        "disjoint_from.0.root=files/flickr8k",
        "selection.benchmarks.0.root=files/flickr8k",
    ],
)
def test_moved_training_data_mean_the_same(assignment: str) -> None:
    assert of(TRAIN, assignment) == of(TRAIN)


@pytest.mark.parametrize(
    "assignment",
    [
        "sources.0.pairs.name=retrieval",
        "sources.0.negatives=[runs/mined]",
        "sources.0.regions.captions=null",
        "regions.most=3",
        "selection.benchmarks.0.split=test",
        "disjoint_from=[]",
    ],
)
def test_what_is_trained_on_is_meaning(assignment: str) -> None:
    assert of(TRAIN, assignment) != of(TRAIN)


LOOP = {
    "job": "loop",
    "name": "l",
    "model": {"kind": "tiny"},
    "base": {"sources": [{"pairs": "drawn"}], "steps": 2},
    "arms": {"hard": {"sources": [{"pairs": "drawn"}], "steps": 2}, "plain": {"sources": [{"pairs": "drawn"}], "steps": 2}},
    "mine": {"pairs": "drawn"},
    "subject": "hard",
    "benchmarks": ["drawn"],
    "output": "runs/l",
}


@pytest.mark.parametrize(
    "assignment",
    [
        "gates=[{metric: drawn/*}]",
        "wise_ft={benchmarks: [drawn], target: a, keep: b}",
        "subject=plain",
        "seeds=[0, 1]",
        "stats.level=0.9",
        "primary=[drawn/naming/accuracy]",
        "base.compute.threads=2",
        "mine.compute.batch_size=7",
        "arms.hard.compute.precision=bf16",
    ],
)
def test_how_a_loop_judges_and_computes_is_not_what_it_does(assignment: str) -> None:
    assert of(LOOP, assignment) == of(LOOP)


@pytest.mark.parametrize("assignment", ["arms.hard.steps=3", "base=null", "mine.search.k=7", "benchmarks=[spec]", "model.seed=1"])
def test_what_a_loop_does_is_its_meaning(assignment: str) -> None:
    assert of(LOOP, assignment) != of(LOOP)


def test_bench_jobs_have_one() -> None:
    bench = {"job": "bench", "name": "b", "suite": "eval", "output": "runs/b"}
    assert of(bench) == of(bench, "output=elsewhere") != of(bench, "options={images: 5}")
