"""Box classification end to end on COCO128's boxes, masks and a tiny model: each score equals one made from the files by plain code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image
from torch.nn import functional as F

from fgray import compare
from fgray.config.schema import EvalJob, TinyModel
from fgray.evaluation import evaluate
from fgray.models import open_model
from tests.benchmarks.panoptic import write_panoptic
from tests.models.dense_reference import arrays, clip_picture, roi, under_mask, unit

PICTURES = 4
SIZE = 64  # of the picture for boxes and masks; crops have the model's own 32
TEMPLATES = ["a photo of {article} {}.", "the {}."]


@pytest.fixture(scope="module")
def finished(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    root, output = tmp_path_factory.mktemp("panoptic"), tmp_path_factory.mktemp("run")
    content = write_panoptic(data_root / "coco128", root, PICTURES)
    options = {"protocol": "clipself", "size": SIZE, "crop_size": 32, "templates": TEMPLATES}
    job = {
        "job": "eval",
        "name": "boxes",
        "model": {"kind": "tiny"},
        "data": {"root": str(root)},
        "benchmarks": [{"name": "box_classification", **options}],
        "compute": {"runner": "serial", "batch_size": 4, "unit_rows": 8},
        "stats": {"resamples": 100},
        "output": str(output),
    }
    evaluate(EvalJob.model_validate(job))
    return root, output, content


class Reference:
    """The tiny model's towers in float64, one region at a time."""

    def __init__(self) -> None:
        source = open_model(TinyModel(kind="tiny"))
        self.weights = arrays(source.module().visual)
        self.mean, self.std = np.array(source.preprocess.mean), np.array(source.preprocess.std)
        self.texts = source.load("cpu").embed_texts

    def picture(self, pixels: np.ndarray, dense: bool) -> np.ndarray:
        normal = ((pixels / 255 - self.mean) / self.std).transpose(2, 0, 1)
        return clip_picture(self.weights, normal, heads=2, native=(4, 4), dense=dense)


def letterboxed(image: Image.Image, side: int, centred: bool) -> np.ndarray:
    scale = side / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(small, ((side - small.width) // 2, (side - small.height) // 2) if centred else (0, 0))
    return np.asarray(canvas)


def regions(root: Path, content: dict[str, Any], reference: Reference) -> dict[str, np.ndarray]:
    """Return ``mode/picture/segment`` -> unit embedding, straight from the files."""
    found = {}
    for picture, annotation in zip(content["images"], content["annotations"], strict=True):
        image = Image.open(root / "val2017" / picture["file_name"]).convert("RGB")
        png = np.asarray(Image.open(root / "annotations" / "panoptic_val2017" / annotation["file_name"])).astype(int)
        tokens = reference.picture(letterboxed(image, SIZE, False), True)
        scale = SIZE / max(image.size)
        sides = np.array([round(image.width * scale) / image.width, round(image.height * scale) / image.height] * 2)
        for segment in annotation["segments_info"]:
            mask = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2] == segment["id"]
            x, y, w, h = segment["bbox"]
            half = 0.75
            if segment["category_id"] > 100:
                ys, xs = np.nonzero(mask)
                x, y, w, h = xs.min(), ys.min(), xs.max() - xs.min(), ys.max() - ys.min()
                half = 0.5
            if not 64 <= w * h <= 1024**2:
                continue
            name = f"{Path(picture['file_name']).stem}/{segment['id']}"
            found[f"roi/{name}"] = roi(tokens, tuple(np.array([x, y, x + w, y + h]) * sides / 8))
            cx, cy = x + w / 2, y + h / 2
            window = (max(cx - half * w, 0), max(cy - half * h, 0), min(cx + half * w, image.width), min(cy + half * h, image.height))
            found[f"crop/{name}"] = reference.picture(letterboxed(image.crop(window), 32, True), False)
            rows, columns = (round(length * 8 / max(image.size)) for length in (image.height, image.width))
            low = F.interpolate(torch.from_numpy(mask)[None, None].double(), (rows, columns), mode="bicubic", align_corners=False)
            cells = np.zeros((8, 8), bool)
            cells[:rows, :columns] = low[0, 0].numpy() > 0
            found[f"mask/{name}"] = under_mask(tokens, cells)
    return found


def test_every_score_equals_plain_code_on_the_files(finished) -> None:
    root, output, content = finished
    reference = Reference()
    expected = regions(root, content, reference)
    order = sorted(content["categories"], key=lambda one: one["id"])
    classes = []
    for one in order:
        article = "an" if one["name"][0] in "aeiou" else "a"
        texts = reference.texts([f"a photo of {article} {one['name']}.", f"the {one['name']}."]).values.astype(float)
        classes.append(unit(texts.mean(axis=0)))
    samples = pq.read_table(output / "samples.parquet").to_pylist()
    assert len(samples) == len(expected) > 60
    empty, near = 0, 0
    for sample in samples:
        setting, _, name = sample["case_id"].partition("/")
        vector = expected[f"{setting.split('_')[0]}/{name}"]
        if not vector.any():  # a mask that covers no cell
            assert set(sample["scores"]) == {0.0} and sample["tied"] == 81
            empty += 1
            continue
        scores = np.array([float(vector @ one) for one in classes])
        np.testing.assert_allclose(sample["scores"], scores[sample["shown"]], atol=1e-5)
        right = sample["labels"][0]
        others = np.delete(scores, right)
        if np.abs(others - scores[right]).min() < 2e-5:
            near += 1
        else:
            assert sample["greater"] == int((others > scores[right]).sum())
    assert empty < 10 and near < len(samples) // 5


def test_the_gallery_draws_regions_and_says_how_sure_the_model_is(finished) -> None:
    root, output, _ = finished
    soup = BeautifulSoup((output / "report.html").read_text(), "html.parser")
    cards = soup.select("[data-card]")
    assert len(cards) > 6
    samples = {row["case_id"]: row for row in pq.read_table(output / "samples.parquet").to_pylist()}
    for card in cards:
        sample = samples[card.select_one(".id").get_text()]
        assert card.select_one("figure.query img")["src"].startswith("data:image/webp;base64,")
        assert card.select_one("figcaption strong").get_text() == sample["category"]
        weights = np.exp(100 * (np.array(sample["scores"]) - max(sample["scores"])))
        shares = dict(zip(sample["candidates"], 100 * weights / weights.sum(), strict=True))
        for item in card.select("ol.texts li"):
            share = float(item.select_one(".certainty").get_text().removesuffix(" %"))
            assert share == pytest.approx(shares[item.select_one(".text").get_text()], abs=0.051)
    regions = pq.read_table(output / "regions.parquet")
    assert regions.num_rows == len(samples) and set(regions["benchmark"].to_pylist()) == {"box_classification/coco_panoptic"}
    run = json.loads((output / "run.json").read_text())
    assert run["benchmarks"]["box_classification/coco_panoptic"]["regions"] == {"requested": regions.num_rows}


def test_a_comparison_draws_the_regions_whose_answer_changed(finished, tmp_path: Path) -> None:
    _, output, _ = finished
    other = tmp_path / "other"
    shutil.copytree(output, other)
    table = pq.read_table(other / "samples.parquet")
    greater = pa.array([0 if value else 1 for value in table["greater"].to_pylist()], pa.int32())  # every answer changes
    pq.write_table(table.set_column(table.schema.get_field_index("greater"), "greater", greater), other / "samples.parquet")
    compare(str(output), str(other), str(tmp_path / "page.html"))
    cards = BeautifulSoup((tmp_path / "page.html").read_text(), "html.parser").select("[data-card]")
    rows = {row["case_id"]: row for row in table.to_pylist()}
    assert len(cards) > 6
    for card in cards:
        assert card.select_one("figure.query img")["src"].startswith("data:image/webp;base64,")
        assert card.select_one("li.is-right .text").get_text() == rows[card.select_one(".id").get_text()]["category"]
