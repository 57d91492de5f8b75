"""What it costs to send a job to a cluster instead of running it here, beside Ray's own command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from fgray.bench import Row, compare_row
from fgray.errors import RunError


class Flat:
    """An encoder that takes no time, so that what is left is the way to the cluster and back."""

    image_size = 8

    def __init__(self, device: str) -> None:
        """Take a device."""

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        """Return the pixels as they are."""
        return pixels.reshape(len(pixels), -1).astype(np.float64) + 1

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Return the same direction for each."""
        return np.ones((len(texts), 3 * self.image_size**2))


def submit(repeats: int = 3) -> Iterator[Row]:
    """Yield `submit_overhead_seconds`: what `fgray submit --cluster` takes longer than the same job here; the cluster is up before.

    Args:
        repeats: interleaved turns, of which medians are reported.
    """
    with tempfile.TemporaryDirectory(prefix="fgray-bench-") as name:
        folder = Path(name)
        cluster = str(_write_cluster(folder))
        up = [sys.executable, "-m", "fgray", "cluster", "up", cluster]
        down = [sys.executable, "-m", "fgray", "cluster", "down", cluster]
        try:
            told = re.search(r"dashboard is (\S+), its token is in (\S+)", _run(up, os.environ))
            assert told is not None
            times = _turns(cluster, told[1], told[2], folder, repeats)
        finally:
            _run(down, os.environ)
    ours, theirs = times["fgray"] - times["here"], times["ray"] - times["nothing"]
    note = (
        f"an evaluation that takes {times['here']:.1f} s here, median of {repeats}; theirs: `ray job submit` of a Python that does nothing"
    )
    yield compare_row("submit_overhead_seconds", ours, theirs, "s", more_is_better=False, goal=1.0, note=note)


def _write_cluster(folder: Path) -> Path:
    """Write the file of a cluster that is a head alone."""
    content = {
        "cluster_name": f"bench-{os.getpid()}",
        "max_workers": 0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "fgray": {"dependencies": "image"},
        },
        "head_node_type": "head",
        "available_node_types": {"head": {"resources": {"CPU": 1}, "node_config": {}}},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _turns(cluster: str, address: str, token: str, folder: Path, repeats: int) -> dict[str, float]:
    """Return the median seconds of each command."""
    tools = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}
    found: dict[str, list[float]] = {"here": [], "fgray": [], "nothing": [], "ray": []}
    empty = folder / "empty"
    empty.mkdir()
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", f"--address={address}", f"--working-dir={empty}", "--"]
    nothing = [sys.executable, "-c", "pass"]
    for turn in range(repeats):
        commands: dict[str, Sequence[str]] = {
            "here": _fgray(folder, f"here-{turn}"),
            "fgray": [*_fgray(folder, f"there-{turn}"), "--cluster", cluster],
            "nothing": nothing,
            "ray": [*ray, *nothing],
        }
        for name, command in commands.items():
            start = time.perf_counter()
            _run(command, tools if name == "ray" else os.environ)
            found[name].append(time.perf_counter() - start)
    return {name: median(seconds) for name, seconds in found.items()}


def _fgray(folder: Path, name: str) -> list[str]:
    """Return the command that runs a small evaluation of its own run folder."""
    config: dict[str, Any] = {
        "job": "eval",
        "name": name,
        "model": {"kind": "python", "path": f"{__name__}:{Flat.__name__}"},
        "benchmarks": [{"name": "spec_style", "cases": 1, "subsets": ["existence"]}],
        "compute": {"runner": "serial"},
        "output": str(folder / name),
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "fgray", "submit", str(path)]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise RunError(f"`{' '.join(command[1:5])} …` ended with status {done.returncode}: {last}")
    return done.stdout
