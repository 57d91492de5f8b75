"""Cuts the object bank out of COCO photographs; the bank itself is part of the package, so users never need to run this.

Command, from the project's root, with COCO128 in COCO's layout::

    python -m fgray.synthesis.bank_builder ../shared/data/coco128 fgray/synthesis/bank

The annotations to cut and the squares to keep as backgrounds were chosen by eye (whole, recognisable, unoccluded objects; calm
backgrounds). COCO's polygons are coarse, so the outline is refined: pixels near it are weighed between the colours well inside and
those well outside, which gives a soft alpha edge; edge colours are taken from inside, so no halo of the old background remains.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import KDTree

LICENCES = (4, 5, 7)  # COCO's ids of CC BY 2.0, CC BY-SA 2.0, and "no known copyright restrictions"
LONGEST = 400  # px; the largest paste of the composer is smaller

# (name, plural, annotation ids whose masks together are the object, half width in px of the band where the outline is refined)
CUT_OUTS: list[tuple[str, str, tuple[int, ...], int]] = [
    ("airplane", "airplanes", (161657,), 2),
    ("book", "books", (1137241,), 3),
    ("broccoli", "broccolis", (1060727,), 5),
    ("bus", "buses", (164841,), 3),
    ("cake", "cakes", (1085306,), 4),
    ("cake", "cakes", (1084433,), 3),
    ("cat", "cats", (50915,), 4),
    ("cup", "cups", (671466,), 4),
    ("fork", "forks", (689750,), 3),
    ("handbag", "handbags", (1175151,), 3),
    ("motorcycle", "motorcycles", (151304,), 4),
    ("motorcycle", "motorcycles", (246920,), 4),
    ("oven", "ovens", (1126814,), 3),
    ("pizza", "pizzas", (1074350,), 5),
    ("remote", "remotes", (1109665,), 4),
    ("teddy bear", "teddy bears", (1673785,), 5),
    ("tie", "ties", (294038,), 4),
    ("toilet", "toilets", (1093590,), 4),
    ("toothbrush", "toothbrushes", (2197833,), 3),
    ("vase", "vases", (291613, 1155486), 4),
]

# annotation id -> degrees counter-clockwise: very long objects stand askew, so that their box is not a strip
TURN: dict[int, float] = {161657: 25, 294038: 30}

# annotation id -> polygons (px of the photograph) of what its mask wrongly covers
ERASE: dict[int, list[list[float]]] = {
    294038: [[210, 330, 240, 330, 240, 440, 217, 440, 212, 400]],  # shirt beside the tie
    164841: [[115, 310, 146, 330, 146, 345, 115, 345]],  # ground before the bus
}

# (image id, left, top, side) of square crops
BACKGROUNDS: list[tuple[int, int, int, int]] = [
    (30, 0, 0, 201),
    (30, 0, 201, 201),
    (71, 0, 0, 182),
    (71, 182, 0, 182),
    (257, 313, 0, 197),
    (257, 116, 0, 197),
    (309, 300, 362, 205),
    (360, 0, 0, 237),
    (360, 296, 179, 196),
    (508, 0, 0, 480),
    (508, 160, 0, 480),
    (520, 0, 0, 480),
    (520, 160, 0, 480),
    (626, 0, 0, 480),
    (626, 160, 0, 480),
    (629, 0, 0, 317),
]


def polygon_mask(size: tuple[int, int], polygons: list[list[float]]) -> np.ndarray:
    """Return a bool [height, width] mask of COCO polygons (lists x0, y0, x1, y1, … in px)."""
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    for polygon in polygons:
        draw.polygon(polygon, fill=255)
    return np.asarray(mask) > 0


def refine(rgb: np.ndarray, mask: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn a coarse mask into a soft alpha and colours free of the old background.

    Args:
        rgb: uint8 [height, width, 3].
        mask: bool [height, width].
        band: half width in px of the strip along the outline that is decided by colour.

    Returns:
        colours float [height, width, 3] in 0…255 and alpha float [height, width] in 0…1.
    """
    depth = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    reach = 3 * band + 4
    inner = (depth > band) & (depth <= reach)
    outer = (outside > band) & (outside <= reach)
    strip = (depth <= band) & (outside <= band) & (depth + outside > 0)
    alpha = (depth > band).astype(float)
    colours = rgb.astype(float)

    def features(where: np.ndarray) -> np.ndarray:
        ys, xs = np.nonzero(where)
        return np.column_stack([colours[ys, xs], 2.0 * ys, 2.0 * xs])  # 1 px weighs as much as 2 grey levels

    points = features(strip)
    if inner.any() and outer.any():
        near_in = KDTree(features(inner)).query(points, k=4)[0].mean(axis=1)
        near_out = KDTree(features(outer)).query(points, k=4)[0].mean(axis=1)
        alpha[strip] = near_out**2 / np.maximum(near_in**2 + near_out**2, 1e-9)
    alpha = ndimage.gaussian_filter(ndimage.median_filter(alpha, 3), 0.8)
    alpha = np.clip((alpha - 0.45) / 0.35, 0, 1)  # keeps the soft edge on the object's side of the outline
    alpha[ndimage.label(alpha > 0.5)[0] != _largest(alpha > 0.5)] *= 0.0
    alpha = ndimage.gaussian_filter(alpha, 0.7)
    solid = ndimage.binary_erosion(alpha > 0.9)
    nearest = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    return colours[tuple(nearest)], alpha


def _largest(mask: np.ndarray) -> int:
    labels, count = ndimage.label(mask)
    return int(np.argmax(ndimage.sum_labels(mask, labels, np.arange(1, count + 1)))) + 1


def cut_out(photo: Image.Image, mask: np.ndarray, band: int, turn: float) -> tuple[Image.Image, list[int]]:
    """Return the RGBA cut-out, turned and at most `LONGEST` px long, and its box [left, top, width, height] in the photograph."""
    colours, alpha = refine(np.asarray(photo), mask, band)
    ys, xs = np.nonzero(alpha > 0.02)
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    rgba = np.dstack([colours, alpha * 255])[top:bottom, left:right].round().astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    image = Image.fromarray(rgba, "RGBA")
    if turn:
        image = image.convert("RGBa").rotate(turn, Image.Resampling.BICUBIC, expand=True).convert("RGBA")
        image = image.crop(image.getchannel("A").point(lambda value: 255 * (value > 5)).getbbox())
    scale = LONGEST / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    return image, [int(left), int(top), int(right - left), int(bottom - top)]


def build(coco: Path, out: Path) -> None:
    """Write ``bank.json``, ``ATTRIBUTION.md`` and the images of the bank.

    Args:
        coco: folder with ``annotations/instances_val2017.json`` and ``val2017/``.
        out: folder to fill; images of an earlier build are replaced.
    """
    data = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    images = {image["id"]: image for image in data["images"]}
    licences = {licence["id"]: licence for licence in data["licenses"]}
    categories = {category["id"]: category["name"] for category in data["categories"]}
    annotations = {annotation["id"]: annotation for annotation in data["annotations"]}

    def source(image_id: int) -> dict[str, Any]:
        image = images[image_id]
        licence = licences[image["license"]]
        if licence["id"] not in LICENCES:
            raise ValueError(f"image {image_id} has licence {licence['id']}")
        return {
            "image_id": image_id,
            "flickr_url": image["flickr_url"],
            "coco_url": image["coco_url"],
            "licence_id": licence["id"],
            "licence": licence["name"],
            "licence_url": licence["url"],
        }

    def photo(image_id: int) -> Image.Image:
        return Image.open(coco / "val2017" / images[image_id]["file_name"]).convert("RGB")

    bank: dict[str, list[dict[str, Any]]] = {"cut_outs": [], "backgrounds": []}
    for name, plural, ids, band in CUT_OUTS:
        image_id = annotations[ids[0]]["image_id"]
        picture = photo(image_id)
        mask = polygon_mask(picture.size, [polygon for one in ids for polygon in annotations[one]["segmentation"]])
        mask &= ~polygon_mask(picture.size, ERASE.get(ids[0], []))
        picture, box = cut_out(picture, mask, band, TURN.get(ids[0], 0.0))
        file = f"{name.replace(' ', '_')}-{ids[0]}.webp"
        picture.save(out / file, "WEBP", lossless=True, quality=100, method=6)
        record = {"file": file, "category": name, "plural": plural, "annotation_ids": list(ids), "box": box, "size": list(picture.size)}
        bank["cut_outs"].append({**record, **source(image_id)})
    for image_id, left, top, side in BACKGROUNDS:
        picture = photo(image_id).crop((left, top, left + side, top + side))
        file = f"background-{image_id}-{left}-{top}.jpg"
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=93, subsampling=0, optimize=True)
        (out / file).write_bytes(buffer.getvalue())
        visible = set()
        for annotation in data["annotations"]:
            x, y, width, height = annotation["bbox"]
            if annotation["image_id"] == image_id and x < left + side and x + width > left and y < top + side and y + height > top:
                visible.add(categories[annotation["category_id"]])
        bank["backgrounds"].append({"file": file, "box": [left, top, side, side], "visible": sorted(visible), **source(image_id)})
    built = {item["file"] for items in bank.values() for item in items}
    for old in (*out.glob("*.webp"), *out.glob("*.jpg")):
        if old.name not in built:
            old.unlink()
    (out / "bank.json").write_text(json.dumps(bank, indent=1) + "\n")
    (out / "ATTRIBUTION.md").write_text(attribution(bank))


def attribution(bank: dict[str, list[dict[str, Any]]]) -> str:
    """Return the attribution text: one line per image of the bank."""
    lines = [
        "# Where the images of the object bank come from",
        "",
        "All are cut from photographs of the COCO 2017 training set (https://cocodataset.org). COCO's annotations (CC BY 4.0) name the",
        "Flickr address and the licence of each photograph, not its photographer; the author is found at that address. Changes made:",
        "cut-outs were masked along the annotated outline, refined, some turned, and scaled down; backgrounds are square crops. The files",
        "made from CC BY-SA photographs (Attribution-ShareAlike below) are themselves under CC BY-SA 2.0,",
        "https://creativecommons.org/licenses/by-sa/2.0/, and so are images composed from them.",
        "",
        "| file | photograph | licence | what |",
        "| --- | --- | --- | --- |",
    ]
    for item in (*bank["cut_outs"], *bank["backgrounds"]):
        what = item.get("category", "background")
        licence = f"[{item['licence']}]({item['licence_url']})"
        lines.append(f"| {item['file']} | COCO {item['image_id']}, {item['flickr_url']} | {licence} | {what} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
