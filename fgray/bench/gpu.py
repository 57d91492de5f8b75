"""The gpu suite: images per second in bf16 through the embedding stages, against a bare loop and the matrix-product ceiling."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, mode
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from fgray.bench import Row, compare_row
from fgray.bench.ceiling import MATRIX, check_device, matrix_flops, seconds_per_call
from fgray.bench.decode_pool import DecodePool
from fgray.config.schema import OpenClipModel
from fgray.data.importers import Record
from fgray.data.index import open_images
from fgray.data.shards import build_shards
from fgray.embedding import IMAGE, Compute, image_requests
from fgray.embedding.compute import device_name
from fgray.embedding.stages import embedding_stages
from fgray.engine.progress import Progress
from fgray.engine.stages import Chunk, Receipt, commit_chunk, run_stage
from fgray.engine.store import ResultStore
from fgray.engine.units import ID_TYPE, Unit, item_id, make_units
from fgray.errors import ConfigError
from fgray.models import open_model

ARCHS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
GOALS = {"ViT-L-14": 2000.0}  # images/s on one H100, decode included
GOAL_DEVICE = "H100"
PICTURES = 256  # distinct ones; requests repeat them, and every repeat is read, checked and decoded again
PICTURE_SIZE = (500, 375)  # width and height of a usual ImageNet photograph
MAX_PIXELS = 1 << 24


def run(options: Mapping[str, Any], output: str) -> Iterator[Row]:
    """Yield the rows of the suite; see `measure` for its options."""
    yield from measure(**options)


def measure(
    archs: Sequence[str] = ARCHS,
    images: int = 32_768,
    batch: int = 256,
    decode_processes: int | None = None,
    device: str = "cuda",
    repeats: int = 3,
) -> Iterator[Row]:
    """Measure each architecture with random weights: the stages with and without decode, the loop and the ceiling in turn.

    Args:
        archs: open_clip architectures, or JSON files of them.
        images: requests per repeat.
        batch: rows of a forward pass, and of a unit.
        decode_processes: default: one per core.
        device: "cuda"; "cpu" only tries the code.
        repeats: interleaved repeats, of which medians are reported.

    Raises:
        ConfigError: there is no such device here, or a number is not positive.
    """
    processes = (os.cpu_count() or 1) if decode_processes is None else decode_processes
    for name, number in {"images": images, "batch": batch, "decode_processes": processes, "repeats": repeats}.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{name} cannot be '{number}'", where=f"options.{name}", fix="give a whole number from 1 on")
    check_device(device)
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as folder:
        packed = build_shards(_Pictures(min(images, PICTURES)), folder + "/shards")
        for arch in archs:
            bench = _Bench(arch, Path(folder), images, batch, processes, device)
            yield from bench.rows(repeats, f"JPEG {PICTURE_SIZE[0]}x{PICTURE_SIZE[1]} of {packed.bytes / packed.images / 1000:.0f} kB")


class _Bench:
    """One architecture, and what is timed of it."""

    def __init__(self, arch: str, folder: Path, images: int, batch: int, processes: int, device: str) -> None:
        self.folder, self.images, self.device = folder, images, device
        source = open_model(OpenClipModel(kind="open_clip", arch=arch, dtype="bf16"))
        compute = Compute("serial", device, 1, processes, batch, unit_rows=batch, threads=1)
        self.name, self.shape = source.card.architecture, (batch, *source.card.image_size, 3)
        self.fingerprint, self.numerics = source.fingerprint(), compute.numerics(source)
        self.units = _units(str(folder / "shards"), self.fingerprint, images, batch)
        self.stages = embedding_stages(source, compute, MAX_PIXELS)
        embed: Any = self.stages[-1].build()
        self.embed, self.tower = embed, embed.model.image_tower
        self.pixels = np.random.default_rng(0).integers(0, 256, self.shape, np.uint8)
        self.gflop = image_gflop(self.tower, source.card.image_size, device)

    def rows(self, repeats: int, pictures: str) -> Iterator[Row]:
        """Yield the rows; everything takes its turn in each repeat, so that all see the same clocks and neighbours."""
        pool = DecodePool(self.stages[0], self.shape)
        try:
            turns = [
                (self.through_stages(pool.chunks), self.through_stages(self.ready_chunks), self.bare_loop(), matrix_flops(self.device))
                for _ in range(repeats)
            ]
        finally:
            pool.close()
        included, excluded, loops, flops = zip(*turns, strict=True)
        decoded, loop, product = median(rate for rate, _ in included), median(loops), median(flops)
        where = f"bf16, {device_name(self.device)}, {self.images:,} images, batch {self.shape[0]}, median of {repeats}"
        limit = mode(stage for _, stage in included)
        with_decode = f"{where}; limited by {limit}; {pictures}, {self.stages[0].workers} decode processes, filling the pipeline included"
        ceiling = f"{product / 1e12:.3g} TFLOP/s in a {MATRIX[self.device]}^3 product, {self.gflop:.3g} GFLOP per image"
        for part, ours, note in (
            ("decode_included", decoded, with_decode),
            ("decode_excluded", median(rate for rate, _ in excluded), f"{where}; pixels in host memory"),
        ):
            for against, theirs, what in (
                ("loop", loop, "bare loop, pixels on the device"),
                ("ceiling", product / self.gflop / 1e9, ceiling),
            ):
                name, note_ = f"{self.name}/{part}_vs_{against}", f"{note}; theirs: {what}"
                yield compare_row(name, ours, theirs, "images/s", more_is_better=True, goal=None, note=note_)
        if self.name in GOALS:
            yield goal_row(self.name, decoded, device_name(self.device))

    def through_stages(self, chunks: Callable[[Sequence[Unit]], Iterable[Chunk]]) -> tuple[float, str]:
        """Embed and commit every unit; return images per second and the limiting stage, as the engine's progress names it."""
        self.embed(next(iter(self.ready_chunks(self.units))))  # warm-up
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            store, progress = ResultStore(folder, self.fingerprint), Progress(len(self.units), self.images, self.stages)
            start = time.perf_counter()
            with progress:
                for number, chunk in enumerate(chunks(self.units)):
                    run_stage(self.stages[-1].name, self.embed, chunk)
                    commit_chunk(chunk, store, self.numerics)
                    rows = chunk.items.num_rows
                    progress.committed(IMAGE, rows, Receipt(number, rows, len(chunk.errors), chunk.seconds))
            return self.images / (time.perf_counter() - start), progress.limiting_stage()

    def ready_chunks(self, units: Sequence[Unit]) -> Iterator[Chunk]:
        """Yield the units with pixels that cost nothing."""
        for unit in units:
            yield Chunk(IMAGE, unit.items, {"pixels": self.pixels[: unit.items.num_rows]})

    @torch.inference_mode()
    def bare_loop(self) -> float:
        """Return images per second of the tower over one normalised batch on the device, with nothing else around it."""
        rows, height, width, channels = self.shape
        pixels = torch.randn(rows, channels, height, width, device=self.device).to(torch.bfloat16)
        return rows / seconds_per_call(lambda: torch.nn.functional.normalize(self.tower(pixels), dim=-1), len(self.units), self.device)


def goal_row(name: str, rate: float, device: str) -> Row:
    """Return the row of an architecture's goal; on another device than the goal's it is neither met nor missed."""
    goal = 1.0 if GOAL_DEVICE in device else None
    note = f"theirs: the goal, decode included, on one {GOAL_DEVICE}; this is {device}"
    return compare_row(f"{name}/decode_included_vs_goal", rate, GOALS[name], "images/s", more_is_better=True, goal=goal, note=note)


def image_gflop(tower: Callable[[torch.Tensor], torch.Tensor], size: tuple[int, int], device: str) -> float:
    """Return 10^9 floating-point operations (a multiply-add is two) of one image's forward pass: products and attention."""
    pixels = torch.zeros(1, 3, *size, dtype=torch.bfloat16, device=device)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into the fused attention block
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            tower(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(counter.get_total_flops()) / 1e9


def _units(root: str, fingerprint: str, images: int, rows: int) -> Sequence[Unit]:
    """Return `images` requests for the pictures in turn, each an item of its own, cut into units."""
    index = open_images(root)
    requests = image_requests(index, index.keys.to_pylist(), fingerprint, MAX_PIXELS)
    repeated = requests.take(pa.array(np.arange(images) % requests.num_rows)).drop_columns("item_id")
    ids = pa.array([item_id(IMAGE, fingerprint, b"%d" % number) for number in range(images)], ID_TYPE)
    return make_units(IMAGE, repeated.append_column("item_id", ids), rows)


class _Pictures:
    """JPEG files with detail at all scales, so that decoding costs about what it does for photographs."""

    schema = None

    def __init__(self, count: int) -> None:
        self.count = count

    def records(self) -> Iterator[Record]:
        """Yield every picture."""
        draw, (width, height) = np.random.default_rng(0), PICTURE_SIZE
        for number in range(self.count):
            pixels = np.full((height, width, 3), 128.0)
            for step, amplitude in ((64, 60), (8, 20), (1, 12)):
                coarse = draw.normal(128, amplitude, (height // step + 1, width // step + 1, 3)).clip(0, 255).astype(np.uint8)
                pixels += np.asarray(Image.fromarray(coarse).resize(PICTURE_SIZE, Image.Resampling.BICUBIC), np.float64) - 128
            encoded = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
            yield Record(f"{number:04d}", "jpg", encoded.getvalue(), {})
