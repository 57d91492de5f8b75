"""The benchmark that composes its own cases, with its cache on real S3 servers."""

from __future__ import annotations

from pathlib import Path

from fgray.benchmarks.spec_style import SpecStyle
from fgray.storage import open_storage


def test_a_cache_on_s3_holds_the_same_cases(s3_bucket: str, tmp_path: Path) -> None:
    benchmark = SpecStyle(cases=2, seed=4, subsets=("existence", "absolute_size"))
    local = benchmark.load(None, str(tmp_path))
    for _ in range(2):
        remote = benchmark.load(None, f"{s3_bucket}/cache")
        assert remote.cases.table.equals(local.cases.table)
        assert remote.controls == local.controls
        keys = local.cases.references("image")
        assert remote.images.read(remote.images.locate(keys)) == local.images.read(local.images.locate(keys))
    names = {info.path.split("/")[0] for info in open_storage(f"{s3_bucket}/cache").list()}
    assert [name for name in names if name.startswith("spec_style-")] == [path.name for path in tmp_path.iterdir() if path.is_dir()]
