"""Shapes that would wait for ever, stay small or spill are refused, each with one line that says how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgray.config.schema import ComputeConfig
from fgray.embedding import resolve_compute
from fgray.errors import ConfigError
from fgray.launch.clusters.file import load_cluster
from fgray.launch.plan import devices, shape
from fgray.launch.plan.cost import cost_of
from fgray.launch.plan.forecast import startup_key
from fgray.launch.plan.place import Place, Pool, as_job_on, pack, place_of
from fgray.launch.plan.shape import Refusal, check_nodes, check_object_store, check_pools, check_training, check_units, refuse
from tests.launch.plan.clusters import AWS, write_cluster


def pools(decode: int, model: int, cpus: float = 1, gpus: float = 1) -> list[Pool]:
    return [Pool("decode", decode, 1, 0, "compute.decode_workers"), Pool("model", model, cpus, gpus, "compute.workers")]


def place(folder: Path, text: str = AWS) -> Place:
    file = write_cluster(folder, text)
    return Place(f"the cluster '{file.name}'", file, devices.gpu_of_cluster(file))


def test_workers_go_to_nodes_that_are_there_before_others_are_started(tmp_path: Path) -> None:
    file = write_cluster(tmp_path)
    assert pack(pools(6, 2), file) == ({"gpu": 2}, {"model": 2, "decode": 6})  # beside two GPUs six CPUs are free
    assert pack(pools(7, 2), file) == ({"gpu": 2, "decode": 1}, {"model": 2, "decode": 7})
    assert pack(pools(1, 5), file)[1] == {"model": 4, "decode": 1}


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    assert check_pools(pools(12, 4), place(tmp_path)) == []
    assert check_pools(pools(28, 4), place(tmp_path)) == []  # 4 x 4 + 2 x 8 CPUs, less one for each model worker
    assert check_pools(pools(1000, 1000), Place("this machine", None, None)) == []  # Ray is started as large as it takes


def test_a_pool_larger_than_the_cluster_ever_gets(tmp_path: Path) -> None:
    cpus, gpus = check_pools(pools(40, 5), place(tmp_path))
    assert cpus.what.startswith("the workers (40 decode, 5 model) want 45 CPUs, the cluster 'small' can have 32")
    assert cpus.setting == "compute.decode_workers" and "max_workers" in cpus.fix
    assert "want 5 GPUs, the cluster 'small' can have 4" in gpus.what
    assert gpus.setting == "compute.workers"


def test_one_worker_larger_than_any_node(tmp_path: Path) -> None:
    (refusal,) = check_pools(pools(1, 1, cpus=9), place(tmp_path))
    assert refusal.what == "one model worker wants 9 CPUs, no node of the cluster 'small' has more than 8"
    no_gpu = AWS.replace("GPU: 1", "TPU: 1")
    assert "wants 1 GPUs" in check_pools(pools(1, 1), place(tmp_path, no_gpu))[0].what


def test_workers_that_fit_by_their_sum_but_not_on_nodes(tmp_path: Path) -> None:
    (refusal,) = check_pools(pools(0, 5, cpus=5, gpus=0)[1:], place(tmp_path))
    assert "5 model workers of 5 CPUs do not fit the nodes of the cluster 'small': 2 do" in refusal.what
    assert refusal.fix.startswith("set it to 2")


def test_more_workers_than_units() -> None:
    pool = Pool("model", 8, 1, 0, "compute.workers")
    (refusal,) = check_units(pool, True, 5, 64)
    assert refusal.what == "8 model workers for 5 units: 3 would start and do nothing"
    assert refusal.fix == "set it to 5 or less, or compute.unit_rows to 40"
    assert check_units(pool, True, 8, 64) == []
    assert check_units(pool, False, 5, 64) == []  # "auto" is no wish
    assert check_units(pool, True, 0, 64) == []  # all is stored


def test_units_in_flight_beyond_the_object_stores(tmp_path: Path) -> None:
    stated = AWS.replace("{CPU: 4, GPU: 1}", "{CPU: 4, GPU: 1, object_store_memory: 1073741824}")
    unit = 128 * 2**20
    assert check_object_store(pools(2, 2), unit, place(tmp_path, stated), None) == []  # 4 workers x 2 x 128 MiB = 1 GiB on two nodes
    (refusal,) = check_object_store(pools(2, 2), 3 * unit, place(tmp_path, stated), None)
    assert "2.2 GiB of decoded units would be on their way, the object store of a 'gpu' node holds 1.0 GiB" in refusal.what  # three workers
    by_memory = AWS.replace("{CPU: 4, GPU: 1}", "{CPU: 4, GPU: 1, memory: 2505397589}")  # 0.7 of what the node has
    assert "holds 1.0 GiB" in check_object_store(pools(2, 2), 3 * unit, place(tmp_path, by_memory), None)[0].what
    assert check_object_store(pools(2, 2), 100 * unit, place(tmp_path), None) == []  # the file does not say how large they are
    assert check_object_store(pools(2, 2), unit, Place("this machine", None, None), 2 * 2**30)[0].setting == "compute.unit_rows"


def test_processes_beyond_the_memory_of_their_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = place(tmp_path, AWS.replace("{CPU: 8}", "{CPU: 8, memory: 8589934592}"))
    needs = {"decode": 1.0, "model": 3.0}
    assert check_nodes(pools(6 + 7, 2), needs, stated) == []
    (refusal,) = check_nodes(pools(6 + 8, 2), needs, stated)
    assert refusal.what == "the workers on a 'decode' node (8 decode) need about 8.0 GiB, it has 8.0 for them"
    assert check_nodes(pools(14, 2), needs, place(tmp_path)) == []  # the file does not say
    pods = place(tmp_path, AWS.replace("{CPU: 8}", "{CPU: 8, memory: 8589934592}").replace("type: aws", "type: kuberay"))
    assert "it has 5.6 for them" in check_nodes(pools(6 + 7, 2), needs, pods)[0].what  # the object store is in the pod's limit
    monkeypatch.setattr(shape, "own_memory_gib", lambda: 10.0)
    here = place(tmp_path, AWS.replace("type: aws", "type: external"))
    assert "on this machine (14 decode, 2 model) need about 20.0 GiB" in check_nodes(pools(14, 2), needs, here)[0].what


@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parents[3] / "cluster").glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_what_auto_takes_of_a_shipped_cluster_fits_it(monkeypatch: pytest.MonkeyPatch, path: Path, threads: int, device: str) -> None:
    monkeypatch.delenv("FGRAY_CLUSTER", raising=False)
    file = load_cluster(str(path))
    with as_job_on(file):
        compute = resolve_compute(ComputeConfig.model_validate({"threads": threads, "device": device}), None)
    found = pools(compute.decode_workers, compute.workers, threads, float(compute.device == "cuda"))
    where, unit = Place(file.name, file, devices.gpu_of_cluster(file)), 2**27
    assert check_pools(found, where) == []
    if compute.device == "cuda":
        assert compute.workers == 4  # the on-demand machines stand in for spot machines
        assert check_object_store(found, unit, where, None) == []
        assert check_object_store(found, 8 * unit, where, None) and check_nodes(found, {"decode": 4.0}, where)  # the files say enough


def test_a_job_knows_of_its_cluster_what_the_plan_knew(monkeypatch: pytest.MonkeyPatch) -> None:
    file = load_cluster(str(Path(__file__).resolve().parents[3] / "cluster" / "aws-l4-spot.yaml"))
    monkeypatch.setenv("FGRAY_CLUSTER", file.told())
    there, planned = place_of(None, "cuda"), place_of(file, "cuda")
    assert (there.device, there.kind, there.boot_seconds) == (planned.device, "aws", planned.boot_seconds)
    assert there.device is not None and there.device.name == "NVIDIA L4"
    assert cost_of(pools(20, 4), there.file, 3600) == cost_of(pools(20, 4), file, 3600)
    assert startup_key(there, "ray") == startup_key(planned, "ray") == "ray | aws"
    assert "sg-" not in file.told() and "IamInstanceProfile" not in file.told()
    assert (place_of(None, "cpu").rates_of or "").endswith(" on aws")
    monkeypatch.setenv("FGRAY_CLUSTER", '{"name": "slurm-7", "most": {"CPU": 8}, "provider": "slurm"}')
    assert startup_key(place_of(None, "cpu"), "ray") == "ray | slurm"
    monkeypatch.delenv("FGRAY_CLUSTER")
    assert startup_key(place_of(None, "cpu"), "ray") == "ray | this machine"


def test_types_that_are_cheap_and_small_give_way_where_the_places_are_few(tmp_path: Path) -> None:
    small = (
        AWS.replace("max_workers: 6", "max_workers: 2") + "  small:\n    resources: {CPU: 2}\n    node_config: {InstanceType: m7i.xlarge}\n"
    )
    file = write_cluster(tmp_path, small)
    assert pack(pools(3, 0), file)[0] == {"small": 2}
    assert pack(pools(16, 0), file) == ({"decode": 2}, {"model": 0, "decode": 16})


def test_memory_is_what_the_container_may_have(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    groups = tmp_path / "sys/fs/cgroup"
    (groups / "job/step").mkdir(parents=True)
    whole = devices.own_memory_gib(str(tmp_path))
    (tmp_path / "proc/self/cgroup").write_text("0::/job/step\n")
    (groups / "job/step/memory.max").write_text("max\n")
    assert devices.own_memory_gib(str(tmp_path)) == whole
    (groups / "job/memory.max").write_text(f"{2**28}\n")
    assert devices.own_memory_gib(str(tmp_path)) == 0.25
    (tmp_path / "proc/self/cgroup").write_text("4:cpu:/x\n3:memory:/docker\n")
    (groups / "memory").mkdir()
    (groups / "memory/memory.limit_in_bytes").write_text(f"{2**27}\n")
    assert devices.own_memory_gib(str(tmp_path)) == 0.125


def test_more_training_workers_than_gpus(tmp_path: Path) -> None:
    trainers = Pool("training", 5, 1, 1, "compute.workers")
    (refusal,) = check_training(trainers, place(tmp_path), 0)
    assert refusal.what == "5 training workers, the cluster 'small' can have 4 GPUs"
    (refusal,) = check_training(trainers, Place("this machine", None, None), 2)
    assert refusal.what == "5 training workers, this machine has 2 GPUs" and refusal.fix.startswith("set it to 2")
    assert check_training(trainers._replace(gpus=0), Place("this machine", None, None), 0) == []


def test_the_first_refusal_is_raised_with_the_others_beside_it() -> None:
    refuse([], "eval.yaml")
    with pytest.raises(ConfigError) as caught:
        refuse([Refusal("too many", "compute.workers", "fewer"), Refusal("too large", "compute.batch_size", "smaller")], "eval.yaml")
    assert str(caught.value) == "too many [eval.yaml: compute.workers]: fewer"
    assert caught.value.__notes__ == ["too large [eval.yaml: compute.batch_size]: smaller"]


def test_auto_is_resolved_as_the_job_on_the_cluster_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FGRAY_CLUSTER", raising=False)
    here = resolve_compute(ComputeConfig(), None)
    with as_job_on(write_cluster(tmp_path)):
        there = resolve_compute(ComputeConfig(), None)
    assert (there.device, there.workers, there.decode_workers) == ("cuda", 4, 28)
    assert resolve_compute(ComputeConfig(), None) == here
    assert check_pools(pools(there.decode_workers, there.workers), place(tmp_path)) == []
