"""The eval suite: what the engine costs per image, what encoding once gains, how long the start takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from fgray.bench import Row, compare_row
from fgray.benchmarks.base import LoadedBenchmark
from fgray.benchmarks.spec_style import SpecStyle
from fgray.config.schema import EvalJob
from fgray.embedding import IMAGE, embed
from fgray.errors import ConfigError
from fgray.evaluation import plan_evaluation
from fgray.storage import open_storage

DEFAULT_MODEL = {"kind": "lite0-minilm"}
BATCH = 32  # the demo's


def run(options: Mapping[str, Any], output: str) -> Iterator[Row]:
    """Yield the rows of the suite; see `measure` for its options."""
    yield from measure(output, **options)


def measure(
    output: str, model: Mapping[str, Any] | None = None, cases: int = 10, repeats: int = 3, unit_rows: int = 2 * BATCH
) -> Iterator[Row]:
    """Measure ours and theirs in turn, `repeats` times, one worker and one thread each.

    Args:
        output: run folder; the composed cases stay there.
        model: a model section; default lite0-minilm.
        cases: SPEC-style cases per subset; their mix of candidates is the demo's whatever the number.
        repeats: interleaved repeats, of which medians are reported.
        unit_rows: items of a unit; the steady rate needs at least two units of images.

    Raises:
        ConfigError: there are too few images for two units.
    """
    chosen = dict(model or DEFAULT_MODEL)
    cache = open_storage(output).uri
    loaded = SpecStyle(cases=cases).load(None, cache)
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as folder:
        bench = _Bench(Path(folder), chosen, loaded, cases, unit_rows)
        if len(bench.images) <= unit_rows:
            raise ConfigError(f"{len(bench.images)} images make a single unit", where="options", fix="raise cases or lower unit_rows")
        ours, totals, loops, naive, starts, bare_starts = ([] for _ in range(6))
        for repeat in range(repeats):
            rate, seconds, start = bench.ours(repeat)
            ours.append(rate)
            totals.append(seconds)
            starts.append(start)
            loops.append(bench.theirs("embed_loop", images=bench.images)["images_per_second"])
            naive.append(bench.theirs("naive_spec", rows=bench.rows)["seconds"])
            begun = time.perf_counter()
            bench.theirs("first_batch", images=bench.images)
            bare_starts.append(time.perf_counter() - begun)
    note = f"{chosen['kind']}, {len(bench.images)} images of 448 px, 1 worker, 1 thread, batch {BATCH}, median of {repeats}"
    yield compare_row("embed_vs_loop", median(ours), median(loops), "images/s", more_is_better=True, goal=0.95, note=note)
    bound = bench.encoded / bench.items
    note = f"the same cases; {bench.items:,} distinct items against {bench.encoded:,} encoded ones (bound {bound:.1f}); start-up left out"
    yield compare_row("spec_vs_naive", median(totals), median(naive), "s", more_is_better=False, goal=6.0, note=note)
    note = "from the start of embedding to the first committed unit, against a fresh process's first batch"
    yield compare_row("startup_seconds", median(starts), median(bare_starts), "s", more_is_better=False, goal=None, note=note)


class _Bench:
    """The two sides over the same cases."""

    def __init__(self, folder: Path, model: Mapping[str, Any], loaded: LoadedBenchmark, cases: int, unit_rows: int) -> None:
        self.folder, self.model, self.loaded, self.cases, self.unit_rows = folder, model, loaded, cases, unit_rows
        paths = _write_images(loaded, folder)
        self.images = list(paths.values())
        self.rows = _rows(loaded, paths)
        self.encoded = sum(len(row["images"]) + len(row["texts"]) for row in self.rows)
        self.items = len(self.images) + len(loaded.cases.references("text"))

    def ours(self, repeat: int) -> tuple[float, float, float]:
        """Embed everything through the engine into a fresh store.

        Returns:
            images per second after the first image unit; seconds for all items, from the first commit on and scaled up by
            that unit's share; seconds to the first commit.
        """
        settings = {
            "job": "eval",
            "name": "bench",
            "model": self.model,
            "benchmarks": [{"name": "spec_style", "cases": self.cases}],
            "compute": {"workers": 1, "decode_workers": 1, "threads": 1, "batch_size": BATCH, "unit_rows": self.unit_rows},
            "output": str(self.folder / f"run-{repeat}"),
            "store": str(self.folder / f"store-{repeat}"),
        }
        plan = plan_evaluation(EvalJob.model_validate(settings))
        _, progress = embed(plan.work, plan.source, plan.store, plan.compute, plan.job.data.max_pixels)
        units = [row for row in map(json.loads, progress.log) if row["event"] == "unit"]
        images = [unit for unit in units if unit["kind"] == IMAGE]
        rate = sum(unit["items"] for unit in images[1:]) / (images[-1]["at"] - images[0]["at"])
        after_first = sum(unit["items"] for unit in units[1:])
        return rate, (units[-1]["at"] - units[0]["at"]) * self.items / after_first, units[0]["at"]

    def theirs(self, task: str, **content: Any) -> dict[str, float]:
        """Run one loop in a fresh process."""
        file = self.folder / "task.json"
        file.write_text(json.dumps({"task": task, "model": self.model, "threads": 1, "batch": BATCH, **content}))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "fgray.bench.loops", str(file)], env=environment, check=True, capture_output=True, text=True
        )
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result


def _write_images(loaded: LoadedBenchmark, folder: Path) -> dict[str, str]:
    keys = loaded.cases.references("image")
    paths = {key: str(folder / f"image-{number}") for number, key in enumerate(keys)}
    for key, data in zip(keys, loaded.images.read(loaded.images.locate(keys)), strict=True):
        Path(paths[key]).write_bytes(data)
    return paths


def _rows(loaded: LoadedBenchmark, paths: Mapping[str, str]) -> list[dict[str, Sequence[str]]]:
    """Return, per row of the benchmark, what SPEC's own harness encodes for it."""
    rows: list[dict[str, Sequence[str]]] = []
    for case in loaded.cases.table.to_pylist():
        named: dict[str, list[str]] = {"image": [], "text": []}
        named[case["query_kind"]].append(case["query"])
        named[case["candidate_kind"]] += case["candidates"]
        rows.append({"images": [paths[key] for key in named["image"]], "texts": named["text"]})
    return rows
