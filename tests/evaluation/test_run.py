"""The eval job end to end, in this process: what it writes, what it reuses, what it refuses."""

import json
import os
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgray.config import load_config
from fgray.config.schema import EvalJob
from fgray.engine.gc import collect
from fgray.errors import ConfigError, DataError, RunError
from fgray.evaluation import evaluate, plan_evaluation
from tests.small_data import spec_items, write_spec


def job_of(root: Path, output: Path, **changes) -> EvalJob:
    base = {
        "job": "eval",
        "name": "test",
        "model": {"kind": "tiny"},
        "data": {"root": str(root)},
        "benchmarks": [{"name": "spec", "subsets": ["existence", "relative_size", "count"]}],
        "compute": {"runner": "serial", "batch_size": 8, "unit_rows": 8},
        "output": str(output),
    }
    return EvalJob.model_validate({**base, **changes})


def stored_rows(store: Path, kind: str) -> list[bytes]:
    return [id_ for part in store.glob(f"*/{kind}/*.parquet") for id_ in pq.read_table(part)["item_id"].to_pylist()]


def parts(store: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path.relative_to(store)): (path.stat().st_mtime_ns, path.read_bytes()) for path in store.glob("*/embed_*/*.parquet")}


def test_every_distinct_item_is_encoded_once(tmp_path: Path) -> None:
    write_spec(tmp_path / "data")
    evaluate(job_of(tmp_path / "data", tmp_path / "run"))
    for kind in ("embed_image", "embed_text"):
        rows = stored_rows(tmp_path / "run" / "store", kind)
        assert len(rows) == len(set(rows)) == spec_items()
    samples = pq.read_table(tmp_path / "run" / "samples.parquet")
    assert samples.num_rows == 2 * spec_items()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    assert metrics["spec/count/i2t_accuracy"]["count"] == 27 and metrics["spec/count/i2t_accuracy"]["chance"] == pytest.approx(1 / 9)


def test_the_same_picture_under_two_names_is_one_item(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    (data / "existence/images/001_0.jpg").write_bytes((data / "existence/images/000_0.jpg").read_bytes())
    evaluate(job_of(data, tmp_path / "run", benchmarks=[{"name": "spec", "subsets": ["existence"]}]))
    assert len(stored_rows(tmp_path / "run" / "store", "embed_image")) == 5


def test_running_again_computes_nothing_and_writes_the_same_bytes(tmp_path: Path) -> None:
    job = job_of(write_spec(tmp_path / "data"), tmp_path / "run")
    evaluate(job)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("metrics.json", "samples.parquet")}
    stored = parts(tmp_path / "run" / "store")
    assert plan_evaluation(job).work.units == []
    evaluate(job)
    assert parts(tmp_path / "run" / "store") == stored
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


def test_a_benchmark_added_later_computes_only_what_is_new_also_in_other_units(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data")
    store = str(tmp_path / "store")
    evaluate(job_of(data, tmp_path / "first", benchmarks=[{"name": "spec", "subsets": ["existence"]}], store=store))
    stored = parts(tmp_path / "store")
    compute = {"runner": "serial", "batch_size": 8, "unit_rows": 5}
    plan = plan_evaluation(job_of(data, tmp_path / "second", store=store, compute=compute))
    assert (plan.work.requested, plan.work.missing) == (2 * spec_items(), 2 * spec_items() - 2 * spec_items(subsets=("existence",)))
    evaluate(plan.job)
    now = parts(tmp_path / "store")
    assert {name: now[name] for name in stored} == stored
    assert len(stored_rows(tmp_path / "store", "embed_image")) == spec_items()
    alone = evaluate(job_of(data, tmp_path / "alone"))
    assert json.loads((tmp_path / "second" / "metrics.json").read_text())["metrics"] == alone.metrics


def test_another_configuration_does_not_overwrite_a_run(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    only = [{"name": "spec", "subsets": ["existence"]}]
    evaluate(job_of(data, tmp_path / "run", benchmarks=only))
    with pytest.raises(RunError, match="holds a run of another configuration"):
        evaluate(job_of(data, tmp_path / "run", benchmarks=only, model={"kind": "tiny", "seed": 1}))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_image_is_quarantined_and_its_cases_are_left_out(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    damage(data / "existence/images/001_1.jpg")
    (data / "existence/images/002_0.jpg").write_bytes(b"")
    only = [{"name": "spec", "subsets": ["existence"]}]
    job = job_of(data, tmp_path / "run", benchmarks=only, data={"root": str(data), "max_corrupt_fraction": 0.2})
    metrics = evaluate(job).metrics
    quarantine = pq.read_table(tmp_path / "run" / "quarantine.parquet").to_pylist()
    assert [(row["key"], row["stage"]) for row in quarantine] == [
        ("existence/images/001_1", "decode"),
        ("existence/images/002_0", "decode"),
    ]
    assert all(row["error"] for row in quarantine)
    # I2T: 4 of 6 queries have an image; T2I: the two texts of cases 1 and 2 lack a candidate each.
    assert (metrics["spec/existence/i2t_accuracy"]["count"], metrics["spec/existence/i2t_accuracy"]["excluded"]) == (4, 2)
    assert (metrics["spec/existence/t2i_accuracy"]["count"], metrics["spec/existence/t2i_accuracy"]["excluded"]) == (2, 4)


def test_too_much_damage_fails_the_run_and_names_the_list(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    damage(data / "existence/images/001_1.jpg")
    only = [{"name": "spec", "subsets": ["existence"]}]
    with pytest.raises(RunError, match="1 of 12 items cannot be computed") as caught:
        evaluate(job_of(data, tmp_path / "run", benchmarks=only))
    assert "quarantine.parquet" in str(caught.value)
    assert pq.read_table(tmp_path / "run" / "quarantine.parquet").num_rows == 1
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_metric_without_a_single_sample_fails_the_run_and_the_samples_say_why(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", cases=1, subsets=("existence",))
    damage(data / "existence/images/000_1.jpg")
    only = [{"name": "spec", "subsets": ["existence"]}]
    job = job_of(data, tmp_path / "run", benchmarks=only, data={"root": str(data), "max_corrupt_fraction": 0.5})
    with pytest.raises(DataError, match="all 2 samples are excluded .*i2t|all 2 samples are excluded .*t2i") as caught:
        evaluate(job)
    assert "\n" not in str(caught.value) and "quarantine" in str(caught.value)
    samples = pq.read_table(tmp_path / "run" / "samples.parquet").to_pylist()
    assert {row["task"]: row["excluded"].partition(":")[0] for row in samples if row["excluded"]} == {"i2t": "query", "t2i": "candidate"}
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_report_shows_the_resolved_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVEL", "0.8")
    config = tmp_path / "eval.yaml"
    config.write_text(
        f"{{job: eval, name: test, model: {{kind: tiny}}, data: {{root: '{write_spec(tmp_path / 'data', subsets=('existence',))}'}}, "
        "benchmarks: [{name: spec, subsets: [existence]}], compute: {runner: serial}, stats: {level: '${LEVEL}'}, "
        f"output: '{tmp_path / 'run'}'}}"
    )
    loaded = load_config(str(config))
    evaluate(loaded.job, loaded.source)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["config"]["stats"]["level"], run["stats"]["level"]) == ("${LEVEL}", 0.8)
    assert "80 %" in (page := (tmp_path / "run" / "report.html").read_text()) or "80%" in page
    assert "95 %" not in page and "95% " not in page


def test_after_too_much_damage_the_fraction_may_be_raised_and_the_run_goes_on(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    damage(data / "existence/images/001_1.jpg")
    only = [{"name": "spec", "subsets": ["existence"]}]
    with pytest.raises(RunError, match="or raise the fraction"):
        evaluate(job_of(data, tmp_path / "run", benchmarks=only))
    stored = parts(tmp_path / "run" / "store")
    evaluate(job_of(data, tmp_path / "run", benchmarks=only, data={"root": str(data), "max_corrupt_fraction": 0.2}))
    assert parts(tmp_path / "run" / "store") == stored


def test_a_decompression_bomb_is_quarantined(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    Image.new("RGB", (3000, 3000)).save(data / "existence/images/000_0.jpg")
    only = [{"name": "spec", "subsets": ["existence"]}]
    limits = {"root": str(data), "max_corrupt_fraction": 0.1, "max_pixels": 1_000_000}
    evaluate(job_of(data, tmp_path / "run", benchmarks=only, data=limits))
    (row,) = pq.read_table(tmp_path / "run" / "quarantine.parquet").to_pylist()
    assert row["key"] == "existence/images/000_0" and "pixels" in row["error"]


def test_a_verdict_of_another_pixel_limit_is_not_reused_from_a_shared_store(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    Image.new("RGB", (1200, 1000)).save(data / "existence/images/000_0.jpg")
    only = [{"name": "spec", "subsets": ["existence"]}]
    excluded = []
    for number, limit in enumerate((1_100_000, 1_300_000, 1_100_000)):
        limits = {"root": str(data), "max_corrupt_fraction": 0.1, "max_pixels": limit}
        job = job_of(data, tmp_path / f"run{number}", benchmarks=only, data=limits, store=str(tmp_path / "store"))
        excluded.append(evaluate(job).metrics["spec/existence/i2t_accuracy"]["excluded"])
    assert excluded == [1, 0, 1]


def test_limit_takes_the_first_cases_of_each_subset_and_is_never_official(tmp_path: Path) -> None:
    job = job_of(write_spec(tmp_path / "data"), tmp_path / "run", limit=2)
    metrics = evaluate(job).metrics
    assert metrics["spec/count/i2t_accuracy"]["count"] == 2
    described = json.loads((tmp_path / "run" / "run.json").read_text())["benchmarks"]["spec"]
    assert described["official"] is False and any("first 2 cases" in note for note in described["notes"])


def test_a_benchmark_twice_is_refused(tmp_path: Path) -> None:
    one = {"name": "spec", "subsets": ["existence"]}
    with pytest.raises(ConfigError, match="stands twice"):
        plan_evaluation(job_of(write_spec(tmp_path / "data"), tmp_path / "run", benchmarks=[one, one]))


def test_a_misspelt_primary_metric_is_found_before_anything_runs(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    only = [{"name": "spec", "subsets": ["existence"]}]
    with pytest.raises(ConfigError, match="did you mean 'spec/existence/i2t_accuracy'"):
        plan_evaluation(job_of(data, tmp_path / "run", benchmarks=only, primary=["spec/existence/i2t_acuracy"]))


def test_the_log_of_an_earlier_attempt_stays(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    job = job_of(data, tmp_path / "run", benchmarks=[{"name": "spec", "subsets": ["existence"]}])
    evaluate(job)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert [(row["event"], row["items"]) for row in map(json.loads, log.splitlines())] == [("start", 12), ("unit", 6), ("unit", 6)]
    evaluate(job)
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


def test_batch_and_unit_sizes_of_an_interrupted_run_are_kept(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data", subsets=("existence",))
    only = [{"name": "spec", "subsets": ["existence"]}]
    job = job_of(data, tmp_path / "run", benchmarks=only, compute={"runner": "serial"})
    evaluate(job)
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace('"batch_size": 32', '"batch_size": 17'))
    assert plan_evaluation(job).compute.batch_size == 17


def test_garbage_collection_keeps_what_named_runs_read(tmp_path: Path) -> None:
    data = write_spec(tmp_path / "data")
    store = str(tmp_path / "store")
    subsets = {
        name: job_of(data, tmp_path / name, benchmarks=[{"name": "spec", "subsets": [name]}], store=store)
        for name in ("existence", "count")
    }
    other = job_of(
        data, tmp_path / "other", model={"kind": "tiny", "seed": 1}, store=store, benchmarks=[{"name": "spec", "subsets": ["existence"]}]
    )
    for job in (*subsets.values(), other):
        evaluate(job)
    before = parts(tmp_path / "store")
    assert collect(store, [subsets["count"].output], dry_run=True).parts > 0
    assert parts(tmp_path / "store") == before
    half = tmp_path / "store" / ".fgray-0.tmp"  # a killed writer's
    half.write_bytes(b"half")
    os.utime(half, (time.time() - 2 * 86400,) * 2)
    assert collect(store, [subsets["count"].output]).leftovers == 1
    assert not half.exists()
    assert len(stored_rows(tmp_path / "store", "embed_image")) == spec_items(subsets=("count",))
    assert plan_evaluation(subsets["count"]).work.missing == 0
    assert plan_evaluation(subsets["existence"]).work.missing == 12 and plan_evaluation(other).work.missing == 12
    with pytest.raises(ConfigError, match="no run is named"):
        collect(store, [])
