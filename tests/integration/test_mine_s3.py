"""Mining from and to S3 gives the bytes that mining from and to disk gives."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

import fgray
from fgray.config import LoadedConfig, config_from_text
from fgray.storage import open_storage


def mine_job(root: str, output: str) -> LoadedConfig:
    content = {
        "job": "mine", "name": "s3", "model": {"kind": "tiny"}, "data": {"root": root},
        "pairs": {"name": "retrieval", "dataset": "captions"}, "directions": ["image_to_text", "image_to_image"],
        "filters": ["same_image", "near_duplicate_images", {"name": "num_negatives", "value": 3}],
        "search": {"k": 6}, "audit": {"anchors": 4}, "compute": {"runner": "serial"}, "output": output,
    }  # fmt: skip
    return config_from_text(json.dumps(content), "s3.yaml")


def test_s3_and_disk_agree(s3_bucket: str, tmp_path: Path) -> None:
    disk, bucket = tmp_path / "data", open_storage(s3_bucket)
    disk.mkdir()
    lines = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(disk / f"{number}.png")
        lines.append({"image": f"{number}.png", "split": "test", "captions": [f"number {number}", f"{number} things"]})
    (disk / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for path in disk.iterdir():
        bucket.write_bytes(f"data/{path.name}", path.read_bytes())
    fgray.mine(mine_job(str(disk), str(tmp_path / "run")))
    fgray.mine(mine_job(f"{s3_bucket}/data", f"{s3_bucket}/run"))
    for name in ("negatives.parquet", "metrics.json"):
        assert bucket.read_bytes(f"run/{name}") == (tmp_path / "run" / name).read_bytes(), name
    assert bucket.exists("run/report.html")
