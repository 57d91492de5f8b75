"""COCO files with boxes, real and small ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgray.data.captioned_boxes import boxes_with_captions, boxes_with_class_names, read_captioned_boxes
from fgray.data.coco_boxes import CocoBoxes, caption_key, read_boxes, read_panoptic, read_region_captions, segment_map, tight_box
from fgray.data.masks import coco_mask
from fgray.errors import DataError
from fgray.storage import Storage, open_storage


def written(folder: Path, content: object) -> Storage:
    (folder / "file.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return open_storage(str(folder))


def test_coco128_is_read_whole(data_root: Path) -> None:
    found = read_boxes(open_storage(str(data_root / "coco128")), "annotations/instances_val2017.json")
    assert len(found.images) == 128 and sum(map(len, found.boxes.values())) == 939
    assert [category.id for category in found.categories] == sorted(category.id for category in found.categories)
    assert len(found.categories) == 80 and found.categories[0].name == "person" and all(item.is_thing for item in found.categories)
    first = found.images[0]
    assert (first.id, first.file_name, first.width, first.height) == (9, "000000000009.jpg", 640, 480)
    # An annotation's own box bounds its own outline, to the pixel that the outline's rounding may cost.
    checked = 0
    for image in found.images:
        for box in found.boxes[image.id]:
            if box.crowd or box.box[2] * box.box[3] < 900:
                continue
            tight = tight_box(coco_mask(box.segmentation, image.height, image.width, "here"))
            assert tight is not None and np.abs(np.subtract(tight, box.box)).max() < 3
            checked += 1
    assert checked > 400


def test_proposals_need_no_category_and_names_come_from_the_address(tmp_path: Path) -> None:
    image = {"id": 7, "coco_url": "http://images.cocodataset.org/train2017/000000000007.jpg"}
    found = read_boxes(written(tmp_path, {"images": [image], "annotations": [{"image_id": 7, "bbox": [1, 2.5, 3, 4]}]}), "file.json")
    assert found.images[0].file_name == "train2017/000000000007.jpg" and found.categories == []
    box = found.boxes[7][0]
    assert (box.box, box.category, box.crowd, box.segmentation) == ((1.0, 2.5, 3.0, 4.0), None, False, None)


BAD = [
    "{",
    [],
    {"images": []},
    {"images": [{"id": 1}], "annotations": []},
    {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3]}]},
    {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 2, "bbox": [1, 2, 3, 4]}]},
    {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
]


@pytest.mark.parametrize("content", BAD)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: object) -> None:
    with pytest.raises(DataError, match=r"file\.json"):
        read_boxes(written(tmp_path, content), "file.json")


def test_panoptic_segments(tmp_path: Path) -> None:
    category = [{"id": 200, "name": "grass-merged", "isthing": 0}, {"id": 1, "name": "person", "isthing": 1}]
    segment = {"id": 70000, "category_id": 200, "bbox": [0, 1, 2, 3], "iscrowd": 0, "area": 6}
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 4, "height": 5}],
        "categories": category,
        "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": [segment]}],
    }
    found = read_panoptic(written(tmp_path, content), "file.json")
    assert [(item.name, item.is_thing) for item in found.categories] == [("person", True), ("grass-merged", False)]
    assert found.segments == {7: "7.png"} and found.boxes[7][0].id == 70000
    segment["category_id"] = 5
    with pytest.raises(DataError, match="segment 70000 of image 7 has no category"):
        read_panoptic(written(tmp_path, content), "file.json")
    with pytest.raises(DataError, match="segments of image 1, which is not listed"):
        read_panoptic(written(tmp_path, {"images": [], "annotations": [{"image_id": 1}]}), "file.json")
    del content["annotations"][0]["segments_info"]
    with pytest.raises(DataError, match="give a panoptic file"):
        read_panoptic(written(tmp_path, content), "file.json")


def test_the_colour_of_a_pixel_is_the_number_of_its_segment() -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 1] = (112, 17, 1)  # 112 + 256 * 17 + 65536 = 70000
    colours[1, 2] = (5, 0, 0)
    sink = io.BytesIO()
    Image.fromarray(colours).save(sink, "PNG")
    assert segment_map(sink.getvalue(), "here").tolist() == [[0, 70000, 0], [0, 0, 5]]
    grey = io.BytesIO()
    Image.fromarray(colours[..., 0]).save(grey, "PNG")
    for bad in (b"", b"no png", grey.getvalue()):
        with pytest.raises(DataError):
            segment_map(bad, "here")


def test_a_tight_box_ends_at_the_last_pixel() -> None:
    mask = np.zeros((10, 12), bool)
    assert tight_box(mask) is None
    mask[3:8, 2:6] = True
    assert tight_box(mask) == (2.0, 3.0, 3.0, 4.0)  # columns 2 to 5, rows 3 to 7


def test_region_captions_have_fineclips_keys(tmp_path: Path) -> None:
    assert caption_key("000000000009.jpg", (1.08, 187.69, 611.59, 285.84)) == "000000000009.jpg_1_187_611_285.jpg"
    assert caption_key("a.jpg", (-0.7, 1.9, 2.0, 3.0)) == "a.jpg_0_1_2_3.jpg"  # towards zero
    assert read_region_captions(written(tmp_path, {"a.jpg_0_1_2_3.jpg": "a cat"}), "file.json") == {"a.jpg_0_1_2_3.jpg": "a cat"}
    for bad in ([], {"a": 1}, "no json"):
        with pytest.raises(DataError):
            read_region_captions(written(tmp_path, bad), "file.json")


def small_file(tmp_path: Path) -> CocoBoxes:
    boxes = [[1.2, 2.9, 30, 40], [1.7, 2.1, 30.5, 40.9], [0, 0, 3, 3]]
    annotations = [{"image_id": 7, "bbox": box, "category_id": 4, "id": number} for number, box in enumerate(boxes)]
    images = [{"id": 7, "file_name": "train/7.a.jpg"}, {"id": 8, "file_name": "8.jpg"}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "cat"}]}
    return read_boxes(written(tmp_path, content), "file.json")


def test_boxes_meet_their_captions(tmp_path: Path) -> None:
    found = small_file(tmp_path)
    # The first two boxes share a key; the third is too small to need a caption.
    table = boxes_with_captions(found, {"train/7.a.jpg_1_2_30_40.jpg": "a cat asleep"}, 64, "here")
    assert table["text"].to_pylist() == ["a cat asleep"] * 2 and table["image"].to_pylist() == ["train/7%2Ea"] * 2
    assert table.select(["x", "y", "w", "h"]).to_pylist()[1] == {"x": 1.7, "y": 2.1, "w": 30.5, "h": 40.9}
    with pytest.raises(DataError, match=r"1 of 3 boxes have no caption, the first is train/7\.a\.jpg_0_0_3_3\.jpg"):
        boxes_with_captions(found, {"train/7.a.jpg_1_2_30_40.jpg": "a cat asleep"}, 9, "here")
    with pytest.raises(DataError, match="2 of 2"):
        boxes_with_captions(found, {"train/7.a.jpg_1_2_30_40.jpg": ""}, 64, "here")


def test_boxes_with_their_class_as_text(tmp_path: Path) -> None:
    found = small_file(tmp_path)
    assert boxes_with_class_names(found, "a photo of a {}.", "here")["text"].to_pylist() == ["a photo of a cat."] * 3
    with pytest.raises(DataError, match="no place for the class name"):
        boxes_with_class_names(found, "a photo", "here")
    proposals = CocoBoxes(found.images, found.boxes, [], {})
    with pytest.raises(DataError, match="no box has a text"):
        boxes_with_class_names(proposals, "{}", "here")


def test_boxes_and_captions_come_from_their_files(tmp_path: Path, data_root: Path) -> None:
    instances = str(data_root / "coco128" / "annotations" / "instances_val2017.json")
    table = read_captioned_boxes(instances, None, "a photo of a {}.", 64)
    assert len(table) == 939 and len(set(table["image"].to_pylist())) <= 128
    content = json.loads(Path(instances).read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    captions = {caption_key(names[one["image_id"]], one["bbox"]): f"region {one['id']}" for one in content["annotations"]}
    written(tmp_path, captions)
    texts = read_captioned_boxes(instances, str(tmp_path / "file.json"), "{}", 64)["text"].to_pylist()
    # One caption a box, but for boxes that share a key.
    assert len(set(texts)) == len(captions) and set(texts) == set(captions.values())
