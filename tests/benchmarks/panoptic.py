"""A small panoptic set in COCO's layout, made of COCO128's own masks: things as annotated, the rest of a picture as two kinds of stuff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

STUFF = [{"id": 187, "name": "sky-other-merged", "isthing": 0}, {"id": 193, "name": "grass-merged", "isthing": 0}]


def write_panoptic(coco: Path, out: Path, pictures: int) -> dict[str, Any]:
    """Write ``annotations/panoptic_val2017.json`` with its PNGs and link the pictures; return the JSON's content."""
    content = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    folder = out / "annotations" / "panoptic_val2017"
    folder.mkdir(parents=True)
    (out / "val2017").mkdir()
    images = [{name: image[name] for name in ("id", "file_name", "width", "height")} for image in content["images"][:pictures]]
    annotations = []
    for image in images:
        name, width, height = image["file_name"], image["width"], image["height"]
        (out / "val2017" / name).symlink_to(coco / "val2017" / name)
        numbers = np.zeros((height, width), np.int64)
        numbers[: height // 2], numbers[height // 2 :] = 900_001, 900_002
        segments = []
        for one in content["annotations"]:
            if one["image_id"] != image["id"] or not isinstance(one["segmentation"], list):
                continue
            canvas = Image.new("L", (width, height))
            for polygon in one["segmentation"]:
                ImageDraw.Draw(canvas).polygon(polygon, fill=1)
            numbers[np.asarray(canvas) > 0] = one["id"]
            segments.append({name: one[name] for name in ("id", "category_id", "bbox", "iscrowd")})
        rest = [{"id": 900_001, "category_id": 187}, {"id": 900_002, "category_id": 193}]
        segments += [{**one, "bbox": [0, 0, 1, 1], "iscrowd": 0} for one in rest if (numbers == one["id"]).any()]
        Image.fromarray(np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1).astype(np.uint8)).save(
            folder / name.replace("jpg", "png")
        )
        annotations.append({"image_id": image["id"], "file_name": name.replace("jpg", "png"), "segments_info": segments})
    categories = [{"id": one["id"], "name": one["name"], "isthing": 1} for one in content["categories"]] + STUFF[::-1]
    made = {"images": images, "annotations": annotations, "categories": categories}
    (out / "annotations" / "panoptic_val2017.json").write_text(json.dumps(made))
    return made
