"""Time of stages that work at once, by hand; rates by formula and as measured; cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgray.embedding import IMAGE, TEXT
from fgray.launch.plan import devices
from fgray.launch.plan.architecture import Architecture, Tower
from fgray.launch.plan.calibration import Calibration, rate_key
from fgray.launch.plan.cost import cost_of
from fgray.launch.plan.forecast import Forecast
from fgray.launch.plan.pipeline import flow
from fgray.launch.plan.place import Place, Pool
from fgray.launch.plan.rates import Asked, Model, Rate, decode_seconds, rates_of
from tests.launch.plan.clusters import AWS, write_cluster


def rates(decode: float, model: float | None, commit: float = 0.0, runs: int = 0) -> dict[str, Rate]:
    return {"decode": Rate(decode, runs), "model": Rate(model, runs), "commit": Rate(commit, runs)}


def test_the_slowest_stage_decides() -> None:
    found = flow([Asked(IMAGE, 640, 1e5)], {IMAGE: rates(0.01, 0.1, 0.01)}, {"decode": 2, "model": 5}, 64, 1e8, None)
    assert found.stages == pytest.approx({"read": 0.64, "decode": 3.2, "model": 12.8, "store": 1.28})  # ten units, five workers
    assert found.limiting_stage == "model"
    assert found.seconds == pytest.approx(12.8 + 1.28 + 0.64)  # and the first unit's decoding
    slow = flow([Asked(IMAGE, 640, 1e5)], {IMAGE: rates(0.1, 0.1)}, {"decode": 1, "model": 5}, 64, 1e8, None)
    assert (slow.limiting_stage, slow.seconds) == ("decode", pytest.approx(64 + 6.4))
    wire = flow([Asked(IMAGE, 640, 1e5)], {IMAGE: rates(0.01, 0.01)}, {"decode": 8, "model": 8}, 64, 1e6, None)
    assert (wire.limiting_stage, wire.stages["read"]) == ("read", 64)


def test_units_are_whole() -> None:
    four, six = (flow([Asked(TEXT, 64 * n, 0)], {TEXT: rates(0, 0.1)}, {"decode": 1, "model": 3}, 64, 1e9, None).seconds for n in (4, 6))
    assert four == pytest.approx(six) == pytest.approx(12.8)


def test_a_core_cannot_decode_and_embed_at_once() -> None:
    asked, each = [Asked(IMAGE, 100, 1e4)], {IMAGE: rates(0.1, 0.1)}
    assert flow(asked, each, {"decode": 1, "model": 1}, 10, 1e9, 1.0).seconds == pytest.approx(21)
    assert flow(asked, each, {"decode": 1, "model": 1}, 10, 1e9, 2.0).seconds == pytest.approx(11)
    measured = {IMAGE: rates(0.1, 0.1, runs=2)}  # holds the waiting already
    assert flow(asked, measured, {"decode": 1, "model": 1}, 10, 1e9, 1.0).seconds == pytest.approx(11)


def test_an_unknown_model_has_no_time_and_nothing_takes_none() -> None:
    found = flow([Asked(IMAGE, 10, 1e4)], {IMAGE: rates(0.1, None)}, {"decode": 1, "model": 1}, 10, 1e9, None)
    assert (found.seconds, found.limiting_stage) == (None, "unknown")
    assert flow([], {}, {"decode": 1, "model": 1}, 10, 1e9, None).seconds == 0


def test_decoding_by_the_two_figures_it_goes_through() -> None:
    assert 537 < 1 / decode_seconds(110_000) < 726  # Pillow on ImageNet, images a second and thread
    assert 1 / decode_seconds(12_000) == pytest.approx(3400, rel=0.1)


ARCHITECTURE = Architecture(Tower(80_000_000, 8.8, 1, 1), Tower(60_000_000, 6.0, 1, 1), 140_000_000, 1, 512)


def test_rates_by_device_and_as_measured(tmp_path: Path) -> None:
    calibration = Calibration(str(tmp_path / "calibration.json"))
    place, model = Place("a machine", None, devices._GPUS["L4"]), Model("ViT-B-32", "bf16", 1, ARCHITECTURE)
    asked = Asked(IMAGE, 1000, 20_000)
    found = rates_of(asked, model, place, 512, False, calibration)
    assert found["model"].seconds == pytest.approx(8.8 / (1000 * 0.4 * 121) + 5e-5)
    assert found["model"].runs == 0
    key = rate_key("NVIDIA L4", "ViT-B-32", "bf16", 1)
    calibration.add("run", key, IMAGE, "model", 2000, 4.0)
    calibration.add("run", key, IMAGE, "decode", 2000, 6.0, decode_seconds(20_000))
    found = rates_of(asked, model, place, 512, False, calibration)
    assert found["model"] == Rate(pytest.approx(0.002), 1)
    assert found["decode"] == Rate(pytest.approx(0.003), 1)
    larger = rates_of(asked._replace(bytes=110_000), model, place, 512, False, calibration)
    assert larger["decode"].seconds == pytest.approx(0.003 * decode_seconds(110_000) / decode_seconds(20_000))
    assert rates_of(asked, Model("other", "bf16", 1, None), place, 512, False, calibration)["model"] == Rate(None, 0)


def test_cost_of_nodes_head_start_up_and_idle_time(tmp_path: Path) -> None:
    file = write_cluster(tmp_path)
    pools = [Pool("decode", 7, 1, 0, ""), Pool("model", 2, 1, 1, "")]
    found = cost_of(pools, file, 3600)  # two GPU nodes and one for decoding; workers go six minutes after the end
    assert found.nodes == {"gpu": 2, "decode": 1}
    assert found.hourly == pytest.approx(0.2 + 2 * 0.3 + 0.4)
    assert found.total == pytest.approx(0.2 + 1.1 * (0.6 + 0.4))
    assert found.on_demand == pytest.approx(0.2 + 1.1 * (1.6 + 0.4))
    assert "about 1.30 USD" in found.line() and "2.40 if no spot node" in found.line()
    nameless = cost_of(pools, write_cluster(tmp_path, AWS.replace("c7i.2xlarge: {on_demand: 0.4}", "other: {on_demand: 1}")), 3600)
    assert nameless.total is None and "no price for decode" in nameless.line()


def test_a_search_counts_in_time_and_cost_and_a_gpu_has_no_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace
    from typing import Any

    from fgray.config.schema import ComputeConfig
    from fgray.embedding.compute import Compute
    from fgray.launch.plan import mining

    file, seen = write_cluster(tmp_path), dict[str, Any]()

    def forecast(*arguments: Any) -> Any:
        seen["after"] = arguments[-1]
        return SimpleNamespace(rows=lambda: [("time", "x")], facts=dict, refusals=())

    work = SimpleNamespace(images=[], texts=[])
    planned = SimpleNamespace(work=work, sizes={"image_to_text": (100_000, 1_000_000)})
    source = SimpleNamespace(card=None)
    compute = Compute("ray", "cuda", 2, 4, 256, 512, threads=8)
    job = SimpleNamespace(name="m", model=None, compute=ComputeConfig(), store_uri="s3://b/x")
    monkeypatch.setattr(mining, "plan_mining", lambda job: planned)
    monkeypatch.setattr(mining, "open_model", lambda model: source)
    monkeypatch.setattr(mining, "resolve_compute", lambda *given: compute)
    monkeypatch.setattr(mining, "forecast_embedding", forecast)
    monkeypatch.setattr("fgray.launch.plan.architecture.architecture_of", lambda model: ARCHITECTURE)
    mining.plan_mine(job, file, Calibration(str(tmp_path / "c.json")))  # type: ignore[arg-type]
    operations = 2.0 * 100_000 * 1_000_000 * 512
    assert seen["after"] == pytest.approx(operations / (121e12 * 0.4 * 0.25 * 2), rel=1e-3)  # two GPUs; threads do not help them


def test_what_follows_the_embedding_is_in_the_time(tmp_path: Path) -> None:
    place = Place("a machine", None, None)
    streamed = flow([Asked(TEXT, 64, 0)], {TEXT: rates(0, 0.1)}, {"decode": 1, "model": 1}, 64, 1e9, None)
    with_search = Forecast(place, (), (Asked(TEXT, 64, 0),), {}, streamed, Rate(10.0, 0), {}, None, (), after=30.0)
    assert with_search.seconds == pytest.approx(10 + 6.4 + 30)
    assert "30 s after they embedded" in dict(with_search.rows())["time"]
    only_search = Forecast(place, (), (), {}, flow([], {}, {}, 64, 1e9, None), Rate(10.0, 0), {}, None, (), after=30.0)
    assert only_search.seconds == 40.0


def test_gpus_of_machines_and_labels(tmp_path: Path) -> None:
    assert devices.gpu_of_cluster(write_cluster(tmp_path)) == devices._GPUS["L4"]
    label = AWS.replace("InstanceType: g6.xlarge", "nodeSelector: {cloud.google.com/gke-accelerator: nvidia-tesla-t4}")
    assert devices.gpu_of_cluster(write_cluster(tmp_path, label)) == devices._GPUS["T4"]
    resource = AWS.replace("GPU: 1}", 'GPU: 1, "accelerator_type:H100": 1}').replace("g6.xlarge", "custom")
    assert devices.gpu_of_cluster(write_cluster(tmp_path, resource)) == devices._GPUS["H100"]
    assert devices.gpu_of_cluster(write_cluster(tmp_path, AWS.replace("g6.xlarge", "custom"))) is None
