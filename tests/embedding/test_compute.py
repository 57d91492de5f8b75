"""Compute on a cluster: what it can have, not what it has; and numerics that the machines that computed tell."""

from __future__ import annotations

import json

import pytest

from fgray.config.schema import ComputeConfig
from fgray.embedding.compute import joint_numerics, machine_numerics, resolve_compute
from fgray.engine.cluster import cluster
from fgray.engine.stages import Stage, numerics_of
from fgray.errors import ConfigError, RunError


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    def set_most(**most: float) -> None:
        monkeypatch.setenv("FGRAY_CLUSTER", json.dumps({"name": "far", "most": most}))

    return set_most


def test_a_cluster_of_cpus(on) -> None:
    on(CPU=16)
    compute = resolve_compute(ComputeConfig(threads=2), None)
    assert (compute.device, compute.decode_workers, compute.workers, compute.batch_size) == ("cpu", 4, 6, 32)
    assert compute.decode_workers + compute.workers * compute.threads <= 16
    on(CPU=1)  # a share for each stage at least; the session refuses what can never be placed
    assert resolve_compute(ComputeConfig(), None).workers == 1


def test_a_cluster_with_gpus_is_told_without_asking_torch(on, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def forbidden(*args: object) -> None:
        raise AssertionError("the driver runs where there is no GPU")

    for name in ("is_available", "device_count", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, forbidden)
    on(CPU=24, GPU=4)
    compute = resolve_compute(ComputeConfig(), None)
    assert (compute.device, compute.workers, compute.decode_workers, compute.batch_size) == ("cuda", 4, 20, 256)
    assert resolve_compute(ComputeConfig(device="cpu"), None).device == "cpu"


def test_gpu_nodes_come_first_and_decoders_get_the_places_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*nodes: tuple[dict[str, float], int, int], max_nodes: int) -> None:
        shapes = [{"resources": resources, "least": least, "most": most} for resources, least, most in nodes]
        total = {"CPU": 1000, "GPU": 1000}  # of each alone; together the nodes have less
        monkeypatch.setenv("FGRAY_CLUSTER", json.dumps({"name": "far", "most": total, "nodes": shapes, "max_nodes": max_nodes}))

    def resolved(**given: object) -> tuple[int, int]:
        compute = resolve_compute(ComputeConfig.model_validate({"device": "cuda", **given}), None)
        return compute.workers, compute.decode_workers

    head, gpu, plain = ({"CPU": 0}, 1, 1), ({"CPU": 4, "GPU": 1}, 0, 4), ({"CPU": 8}, 0, 6)
    told(head, gpu, plain, max_nodes=9)
    assert resolved() == (4, 4 * 3 + 4 * 8)
    assert resolved(workers=2) == (2, 2 * 3 + 6 * 8)
    assert resolved(decode_workers=49) == (3, 49)  # with a fourth GPU there would be places for 44
    assert resolved(threads=4) == (4, 32)
    assert resolved(workers=9)[0] == 9  # what is written stays, for the plan to refuse
    told(({"CPU": 1, "GPU": 1}, 0, 3), max_nodes=3)
    assert resolved() == (2, 1)  # the third machine decodes
    told(head, ({"CPU": 7}, 0, 4), gpu, max_nodes=5)
    compute = resolve_compute(ComputeConfig(device="cpu", threads=4), None)
    assert (compute.workers, compute.decode_workers) == (4, 7)  # a node of seven takes one worker of four


def test_a_gpu_that_the_cluster_cannot_have(on) -> None:
    on(CPU=4)
    with pytest.raises(ConfigError, match="no node of the cluster 'far' has a GPU"):
        resolve_compute(ComputeConfig(device="cuda"), None)


@pytest.mark.parametrize("text", ["[]", "{}", "no json", '{"name": "x", "most": {"CPU": "many"}}'])
def test_a_variable_of_somebody_elses(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FGRAY_CLUSTER", text)
    with pytest.raises(RunError, match="the variable does not describe a cluster"):
        cluster()


def test_numerics_are_completed_by_those_who_computed() -> None:
    told = {"dtype": "fp32", "batch": 8}
    stage = Stage("model", lambda: None, numerics=lambda: {"device": "cpu x"})
    assert numerics_of(stage, told) == {"dtype": "fp32", "batch": 8, "device": "cpu x"}
    assert numerics_of(Stage("model", lambda: None), told) == told
    classes = [{**told, "device": "a", "torch": "2"}, {**told, "device": "b", "torch": "2"}, told]
    assert joint_numerics(told, classes) == {**told, "device": "a | b", "torch": "2"}
    here = {**machine_numerics("cpu"), **told}
    assert joint_numerics(here, [here]) == here
