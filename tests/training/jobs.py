"""A training job on a few pictures, as a command that can be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
import yaml
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (230, 220, 20), "white": (245, 245, 245)}
EXACT = ("loss", "loss/clip", "gradient_norm", "learning_rate", "logit_scale", "epoch")  # what a resumed run repeats to the last bit


def write_pairs(folder: Path, count: int = 30) -> dict[str, Any]:
    """Write pictures of a coloured square with captions, and return the section that names them."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        name, colour = list(COLOURS.items())[number % len(COLOURS)]
        pixels = rng.integers(0, 80, (40, 40, 3), dtype=np.uint8)
        pixels[8:32, 8:32] = colour
        Image.fromarray(pixels).save(folder / "images" / f"{number:03}.png")
        rows.append({"image": f"{number:03}", "text": f"a {name} square, picture {number}"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    return {"name": "file", "root": str(folder / "pairs.parquet"), "images": str(folder / "images")}


def config(pairs: dict[str, Any], output: Path, **changes: Any) -> dict[str, Any]:
    """Return a small job."""
    return {
        "job": "train_clip",
        "name": "small",
        "model": {"kind": "tiny", "seed": 3},
        "sources": [{"pairs": pairs}],
        "batch_size": 12,
        "steps": 12,
        "optimizer": {"lr": 0.001, "warmup_steps": 2},
        "checkpoints": {"every_steps": 3, "keep": 2},
        "compute": {"runner": "serial"},
        "output": str(output),
        **changes,
    }


class Command:
    """``fgray submit`` of a job, in a process of its own."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.file, self.output, self.log = folder / f"{Path(job['output']).name}.yaml", Path(job["output"]), folder / "log.txt"
        self.file.write_text(yaml.safe_dump(job))

    def start(self) -> subprocess.Popen[bytes]:
        """Start it."""
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "fgray", "submit", str(self.file)], cwd=PROJECT, stdout=log, stderr=log)

    def run(self) -> None:
        """Run it to its end."""
        process = self.start()
        assert process.wait(280) == 0, self.log.read_text()

    def checkpoints(self) -> list[int]:
        """Return the steps of whole checkpoints."""
        return sorted(int(path.parent.name.removeprefix("step-")) for path in self.output.glob("checkpoints/*/state.json"))

    def kill_after(self, step: int) -> None:
        """Run it until a checkpoint of `step` or later is there, and kill it without warning."""
        process = self.start()
        while not any(found >= step for found in self.checkpoints()):
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def rows(self) -> list[dict[str, Any]]:
        """Return the log's rows without rates."""
        rows = [json.loads(line) for line in (self.output / "log.jsonl").read_text().splitlines()]
        return [{name: row[name] for name in ("step", *EXACT) if name in row} for row in rows]

    def starts(self) -> list[dict[str, Any]]:
        """Return what run.json says of its workers' starts."""
        starts: list[dict[str, Any]] = json.loads((self.output / "run.json").read_text())["timing"]["starts"]
        return starts

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the exported model's tensors."""
        return safetensors.torch.load_file(self.output / "model" / "open_clip_model.safetensors")
