"""The gpu suite runs whole on the CPU with a tiny architecture: its speeds mean nothing there, its rows and arithmetic do."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgray import cli
from fgray.bench import Row, gpu, run_suite
from fgray.bench.decode_pool import DecodePool
from fgray.config.schema import BenchJob, OpenClipModel
from fgray.data.decode import decode_image
from fgray.data.index import open_images
from fgray.embedding import IMAGE, Compute, image_requests
from fgray.embedding.stages import embedding_stages
from fgray.engine.units import make_units
from fgray.models import open_model
from tests.small_data import write_picture

PROJECT = Path(__file__).resolve().parents[2]
SIZE, PATCH, WIDTH, LAYERS, DIMENSIONS = 32, 8, 64, 2, 16
ARCH = {
    "embed_dim": DIMENSIONS,
    "vision_cfg": {"image_size": SIZE, "layers": LAYERS, "width": WIDTH, "head_width": 32, "patch_size": PATCH},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PARTS = ("decode_included", "decode_excluded")


@pytest.fixture(scope="module")
def arch(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("arch") / "small.json"
    file.write_text(json.dumps(ARCH))
    return str(file)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: Path, **options: object) -> str:
    """Submit the shipped configuration with other options, and return the single line that refuses them."""
    job = ["fgray", "submit", str(PROJECT / "configs/gpu/embedding.yaml"), "--output", str(output), "--set"]
    monkeypatch.setattr(sys, "argv", [*job, f"options={json.dumps(options)}"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert not (output / "bench.json").exists()
    return err


@pytest.fixture(scope="module")
def rows(arch: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    output = tmp_path_factory.mktemp("out")
    options = {"archs": [arch], "images": 37, "batch": 8, "decode_processes": 1, "device": "cpu", "repeats": 1}
    job = BenchJob(job="bench", name="b", suite="gpu", options=options, output=str(output))
    result = run_suite(job)
    written = json.loads((output / "bench.json").read_text())
    assert [list(row) for row in written] == [["name", "ours", "theirs", "unit", "ratio", "goal", "met", "note"]] * 4
    assert [Row(**row) for row in written] == result.rows
    return {row.name: row for row in result.rows}


@pytest.mark.slow  # starting a decode process takes seconds
class TestRows:
    def test_each_part_stands_against_each_bound(self, rows: dict[str, Row]) -> None:
        assert list(rows) == [f"small/{part}_vs_{bound}" for part in PARTS for bound in ("loop", "ceiling")]
        for part in PARTS:
            assert rows[f"small/{part}_vs_loop"].ours == rows[f"small/{part}_vs_ceiling"].ours
        for bound in ("loop", "ceiling"):
            assert rows[f"small/decode_included_vs_{bound}"].theirs == rows[f"small/decode_excluded_vs_{bound}"].theirs

    def test_ratios_are_ours_over_theirs(self, rows: dict[str, Row]) -> None:
        for row in rows.values():
            assert row.unit == "images/s" and row.ours > 0 and row.theirs is not None and row.theirs > 0
            assert row.ratio == pytest.approx(row.ours / row.theirs, abs=6e-4)
            assert row.goal is None and row.met is None, "nothing is promised of a CPU"

    def test_notes_say_how(self, rows: dict[str, Row]) -> None:
        included, excluded = (rows[f"small/{part}_vs_ceiling"].note for part in PARTS)
        assert "limited by decode" in included or "limited by model" in included
        assert "1 decode processes" in included and "decode processes" not in excluded
        assert all(re.search(r"bf16, cpu \S+ \S.*, 37 images, batch 8, median of 1", row.note) for row in rows.values())

    def test_ceiling_is_product_speed_over_work_per_image(self, rows: dict[str, Row]) -> None:
        row = rows["small/decode_included_vs_ceiling"]
        words = row.note.split()
        tera = float(words[words.index("TFLOP/s") - 1])
        giga = float(words[words.index("GFLOP") - 1])
        assert row.theirs == pytest.approx(tera * 1000 / giga, rel=0.011), "both are printed with three digits"


def test_work_per_image_counted_by_hand(arch: str) -> None:
    """Multiply-adds of a pre-norm ViT with a class token, times two; biases, norms and activations are left out, as is usual."""
    encoder = open_model(OpenClipModel(kind="open_clip", arch=arch)).load("cpu")
    patches = (SIZE // PATCH) ** 2
    tokens = patches + 1
    embed = patches * PATCH * PATCH * 3 * WIDTH
    block = tokens * (3 + 1 + 4 + 4) * WIDTH * WIDTH + 2 * tokens * tokens * WIDTH  # qkv, out, mlp up, mlp down; scores, values
    multiply_adds = embed + LAYERS * block + WIDTH * DIMENSIONS
    tower = encoder.image_tower  # type: ignore[attr-defined]
    assert gpu.image_gflop(lambda x: tower(x.float()), (SIZE, SIZE), "cpu") == pytest.approx(2e-9 * multiply_adds, rel=1e-6)
    assert torch.backends.mha.get_fastpath_enabled(), "left as it was"


@pytest.mark.parametrize(
    ("device", "rate", "ratio", "goal", "met"),
    [
        ("NVIDIA H100 80GB HBM3", 2500.0, 1.25, 1.0, True),
        ("NVIDIA H100 80GB HBM3", 1900.0, 0.95, 1.0, False),
        ("NVIDIA L4", 500.0, 0.25, None, None),
    ],
)
def test_goal_of_the_large_model(device: str, rate: float, ratio: float, goal: float | None, met: bool | None) -> None:
    row = gpu.goal_row("ViT-L-14", rate, device)
    assert (row.name, row.ours, row.theirs, row.unit) == ("ViT-L-14/decode_included_vs_goal", rate, 2000.0, "images/s")
    assert (row.ratio, row.goal, row.met) == (ratio, goal, met)
    assert device in row.note


@pytest.mark.slow
def test_pool_decodes_every_picture_into_its_row(arch: str, tmp_path: Path) -> None:
    """More units than slots, the last one short, one file damaged."""
    for number in range(23):
        write_picture(tmp_path / f"images/{number:02d}.jpg", number)
    (tmp_path / "images/07.jpg").write_bytes(b"no picture")
    source = open_model(OpenClipModel(kind="open_clip", arch=arch))
    index = open_images(str(tmp_path / "images"))
    requests = image_requests(index, index.keys.to_pylist(), "model", 10**6)
    units = make_units(IMAGE, requests, 3)
    stage = embedding_stages(source, Compute("serial", "cpu", 1, 2, 3, 3, 1), 10**6)[0]
    pool = DecodePool(stage, (3, SIZE, SIZE, 3))
    found, errors = {}, {}
    try:
        for chunk in pool.chunks(units):
            assert chunk.seconds["decode"] > 0
            keys = chunk.items["key"].to_pylist()
            pixels = chunk.arrays["pixels"]
            assert pixels.shape == (len(keys), SIZE, SIZE, 3)
            found.update({key: pixels[row].copy() for row, key in enumerate(keys)})
            errors.update({keys[row]: reason for row, reason in chunk.errors.items()})
    finally:
        pool.close()
    assert list(errors) == ["07"] and "not an image" in errors["07"]
    assert sorted(found) == [f"{number:02d}" for number in range(23)]
    for key, pixels in found.items():
        if key == "07":
            assert not pixels.any()
        else:
            expected = source.preprocess(decode_image((tmp_path / f"images/{key}.jpg").read_bytes(), 10**6))
            np.testing.assert_array_equal(pixels, expected)


def test_pictures_cost_what_photographs_do() -> None:
    for record in gpu._Pictures(2).records():
        picture = decode_image(record.data, 10**6)
        assert picture.size == (500, 375) and isinstance(picture, Image.Image)
        assert 60_000 < len(record.data) < 160_000, "ImageNet's files have 110 kB on average"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refusal(monkeypatch, capsys, tmp_path, images=8)
    assert "this machine has no CUDA device [options.device]: run it where there is one" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "no device is called 'tpu' [options.device]: use cuda, or cpu"),
        ({"device": "cpu", "images": 0}, "images cannot be '0' [options.images]: give a whole number from 1 on"),
        ({"device": "cpu", "decode_processes": 0}, "decode_processes cannot be '0' [options.decode_processes]"),
        ({"device": "cpu", "image": 8}, "the suite 'gpu' has no such option"),
        ({"device": "cpu", "images": 8, "batch": 4, "archs": ["ViT-L-41"]}, "open_clip knows no architecture 'ViT-L-41'"),
    ],
)
def test_bad_options_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: dict[str, object], message: str
) -> None:
    assert message in refusal(monkeypatch, capsys, tmp_path, **options)
