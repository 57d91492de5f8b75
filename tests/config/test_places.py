"""Files and folders of a configuration are found by their marks."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from fgray.benchmarks.base import BENCHMARKS
from fgray.config import config_from_text
from fgray.config.loop import LoopJob
from fgray.config.places import Place, find_places
from fgray.config.schema import BenchmarkConfig, DistractorsJob, EvalJob, MineJob, TextNegativesJob
from fgray.config.train import TrainClipJob

LOOP = """
job: loop
name: loop
model: {kind: open_clip, arch: tiny.json, weights: base.pt, activation: gelu}
mine: {pairs: {name: file, root: a.parquet}, filters: [same_image], data: {root: mined}}
arms:
  one:
    sources: [{pairs: drawn, negatives: [mined, runs/negatives], regions: {boxes: boxes.json}}]
    steps: 1
    regions: {}
subject: one
benchmarks: [{name: retrieval, root: photographs, images: ../pictures}, {name: sugarcrepe, images: elsewhere}]
data: {root: default}
output: out
"""


def options(section: BaseModel) -> BaseModel | None:
    if not isinstance(section, BenchmarkConfig) or section.name == "file":
        return None
    kind: Any = BENCHMARKS.get(section.name)
    return kind(**section.options)  # type: ignore[no-any-return]


def test_sections_lists_mappings_and_the_options_of_parts_are_searched() -> None:
    found = {found.keys: found for found in find_places(config_from_text(LOOP, "loop").job, options)}
    assert {".".join(map(str, keys)): (one.text, one.place.kind) for keys, one in found.items()} == {
        "output": ("out", "output"),
        "model.arch": ("tiny.json", "file_or_name"),
        "model.weights": ("base.pt", "file_or_name"),
        "mine.pairs.root": ("a.parquet", "input"),
        "mine.data.root": ("mined", "input"),
        "arms.one.sources.0.negatives.0": ("mined", "input"),
        "arms.one.sources.0.negatives.1": ("runs/negatives", "input"),
        "arms.one.sources.0.regions.boxes": ("boxes.json", "input"),
        "data.root": ("default", "input"),
        "benchmarks.0.root": ("photographs", "input"),
        "benchmarks.0.images": ("../pictures", "under_root"),
        "benchmarks.1.images": ("elsewhere", "under_root"),
    }
    assert found["benchmarks", 0, "images"].root == "photographs"
    assert found["benchmarks", 1, "images"].root == "default"


def sections(kind: Any, seen: set[type]) -> set[type]:
    """Every section that a job's annotations lead to."""
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
        seen.add(kind)
        for field in kind.model_fields.values():
            sections(field.annotation, seen)
    for argument in getattr(kind, "__args__", ()):
        sections(argument, seen)
    return seen


SECTIONS: set[type] = set()
for job in (EvalJob, MineJob, TextNegativesJob, DistractorsJob, TrainClipJob, LoopJob, *map(BENCHMARKS.get, BENCHMARKS.names())):
    sections(job, SECTIONS)


WORDS = ("folder", "path", ".parquet", "Parquet", "JSON", ".npy", "s3://")
NO_FILES = {("OpenClipModel", "activation"), ("ZeroShot", "pattern"), ("ZeroShot", "split")}


@pytest.mark.parametrize("section", sorted(SECTIONS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_what_is_described_as_a_file_or_folder_is_marked(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        text = field.annotation is str or str in getattr(field.annotation, "__args__", ())
        described = any(word in (field.description or "") for word in WORDS)
        if text and described and name != "cluster" and (section.__name__, name) not in NO_FILES:
            assert any(isinstance(mark, Place) for mark in field.metadata), f"{section.__name__}.{name}: {field.description}"
