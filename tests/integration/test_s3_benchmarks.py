"""Official layouts and packed benchmarks on real S3 servers give the metrics that a local folder gives, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fgray.benchmarks.packed import import_benchmark
from fgray.runs import RunFolder
from fgray.storage import open_storage
from tests.benchmarks.layouts import noise, run, write_spec
from tests.benchmarks.test_packed import write_classes, write_shards

TINY = {"kind": "tiny"}


@pytest.fixture
def layouts(tmp_path: Path, data_root: Path) -> tuple[Path, list[dict[str, Any]]]:
    """SPEC, SugarCrepe's real swap files with pictures under their names, 40 real captioned photographs, both classification layouts."""
    root = tmp_path / "data"
    write_spec(root / "spec", {"existence": 2, "count": 3}, sets=3)
    for category in ("swap_obj", "swap_att"):
        items = json.loads((data_root / f"annotations/sugarcrepe/{category}.json").read_text())
        kept = dict(list(items.items())[:40])
        (root / "sugarcrepe/data").mkdir(parents=True, exist_ok=True)
        (root / f"sugarcrepe/data/{category}.json").write_text(json.dumps(kept))
        for item in kept.values():
            noise(root / "sugarcrepe/val2017" / item["filename"], int(item["filename"][:12]) % 1000)
    lines = [line for line in (data_root / "flickr8k/captions.jsonl").read_text().splitlines() if '"test"' in line][:40]
    for line in lines:
        image = root / "flickr8k" / json.loads(line)["image"]
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes((data_root / "flickr8k" / json.loads(line)["image"]).read_bytes())
    (root / "flickr8k/captions.jsonl").write_text("\n".join(lines) + "\n")
    write_classes(root / "folders")
    write_shards(root / "wds")
    return root, [
        {"name": "spec", "root": "spec", "subsets": ["existence", "count"]},
        {"name": "sugarcrepe", "root": "sugarcrepe", "categories": ["swap_obj", "swap_att"]},
        {"name": "retrieval", "root": "flickr8k", "dataset": "flickr8k"},
        {"name": "zero_shot", "root": "folders", "dataset": "folders"},
        {"name": "zero_shot", "root": "wds", "dataset": "wds"},
    ]


def metrics(out: Path, benchmarks: list[dict[str, Any]], base: str) -> dict[str, Any]:
    """Evaluate with every root below `base` and return the content of metrics.json."""
    run(out, [{**one, "root": f"{base}/{one['root']}"} for one in benchmarks], TINY, batch_size=32)
    return RunFolder(str(out)).read_json(RunFolder.METRICS)


def test_metrics_do_not_depend_on_where_the_data_lies(layouts: tuple[Path, list[dict[str, Any]]], s3_bucket: str, tmp_path: Path) -> None:
    root, benchmarks = layouts
    bucket = open_storage(s3_bucket)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        bucket.write_bytes(f"plain/{path.relative_to(root)}", path.read_bytes())
    local = metrics(tmp_path / "local", benchmarks, str(root))
    assert len(local["metrics"]) == 6 + 3 + 6 + 2 + 2
    assert metrics(tmp_path / "s3", benchmarks, f"{s3_bucket}/plain") == local

    for one in benchmarks:
        options = {key: value for key, value in one.items() if key not in ("name", "root")}
        import_benchmark(one["name"], f"{s3_bucket}/plain/{one['root']}", f"{s3_bucket}/packed/{one['root']}", options)
    assert metrics(tmp_path / "packed", benchmarks, f"{s3_bucket}/packed") == local
    names = {"metrics.json", "samples.parquet"}
    contents = [{name: (tmp_path / place / name).read_bytes() for name in names} for place in ("local", "s3", "packed")]
    assert contents[0] == contents[1] == contents[2]
