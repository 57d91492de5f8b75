"""The whole of SugarCrepe's annotations, Flickr8k's test photographs and a SPEC folder: disk and real S3 servers agree byte for byte."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fgray.config.schema import EvalJob
from fgray.evaluation import evaluate
from fgray.storage import open_storage
from tests.small_data import spec_items, write_picture, write_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CATEGORIES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Three official layouts; SugarCrepe's pictures are noise under their names, Flickr8k's are the photographs."""
    root = tmp_path_factory.mktemp("layouts")
    write_spec(root / "spec")
    names = set()
    for category in CATEGORIES:
        text = (data_root / f"annotations/sugarcrepe/{category}.json").read_text()
        (root / "sugarcrepe/data").mkdir(parents=True, exist_ok=True)
        (root / f"sugarcrepe/data/{category}.json").write_text(text)
        names |= {item["filename"] for item in json.loads(text).values()}
    for name in sorted(names):
        write_picture(root / "sugarcrepe/val2017" / name, seed=int(Path(name).stem))
    lines = (data_root / "flickr8k/captions.jsonl").read_text().splitlines()
    tested = [line for line in lines if json.loads(line)["split"] == "test"]
    (root / "flickr8k/images").mkdir(parents=True)
    (root / "flickr8k/captions.jsonl").write_text("\n".join(tested) + "\n")
    for line in tested:
        image = json.loads(line)["image"]
        (root / "flickr8k" / image).write_bytes((data_root / "flickr8k" / image).read_bytes())
    return root


def evaluate_at(base: str, output: str) -> dict[str, bytes]:
    """Evaluate all three from `base`, results and store included under `output`."""
    job = {
        "job": "eval",
        "name": "full",
        "model": {"kind": "tiny"},
        "benchmarks": [
            {"name": "spec", "root": f"{base}/spec", "subsets": ["existence", "relative_size", "count"]},
            {"name": "sugarcrepe", "root": f"{base}/sugarcrepe"},
            {"name": "retrieval", "root": f"{base}/flickr8k", "dataset": "flickr8k"},
        ],
        "compute": {"runner": "serial", "unit_rows": 1024},
        "stats": {"resamples": 1000},
        "output": output,
    }
    evaluate(EvalJob.model_validate(job))
    folder = open_storage(output)
    return {name: folder.read_bytes(name) for name in ("metrics.json", "samples.parquet")}


@pytest.fixture(scope="module")
def from_disk(layouts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    yield evaluate_at(str(layouts), str(tmp_path_factory.mktemp("disk") / "run"))


def test_counts_are_the_official_ones(from_disk: dict[str, bytes]) -> None:
    metrics = json.loads(from_disk["metrics.json"])["metrics"]
    assert sum(metrics[f"sugarcrepe/{category}/accuracy"]["count"] for category in CATEGORIES) == 7511
    assert metrics["retrieval/flickr8k/text_retrieval_recall@1"]["count"] == 500
    assert metrics["retrieval/flickr8k/image_retrieval_recall@1"]["count"] == 2500
    assert sum(metrics[f"spec/{subset}/i2t_accuracy"]["count"] for subset in ("existence", "relative_size", "count")) == spec_items()


def test_s3_gives_the_bytes_of_the_disk(layouts: Path, from_disk: dict[str, bytes], s3_bucket: str) -> None:
    bucket = open_storage(s3_bucket)
    files = [path for path in layouts.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: bucket.write_bytes(f"data/{path.relative_to(layouts)}", path.read_bytes()), files))
    assert evaluate_at(f"{s3_bucket}/data", f"{s3_bucket}/runs/full") == from_disk
