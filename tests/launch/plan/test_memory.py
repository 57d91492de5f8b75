"""Memory of training workers, against DeepSpeed's own estimates, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fgray.config.train import TrainClipJob
from fgray.launch.plan.architecture import Architecture, Tower
from fgray.launch.plan.memory import Memory, check_memory, driver_memory, embedding_memory, state_bytes, trained_parameters, training_memory

GB = 1e9
NAMES = (("visual.a", 60), ("visual.b", 20), ("text.a", 30), ("logit_scale", 1))


def job(**changes) -> TrainClipJob:
    compute = {"workers": 2, **changes.pop("compute", {})}
    content = {
        "job": "train_clip",
        "name": "t",
        "output": "runs/t",
        "model": {"kind": "tiny"},
        "sources": [{"pairs": {"name": "file", "root": "pairs"}}],
        "batch_size": 64,
        "steps": 10,
        "compute": compute,
        **changes,
    }
    return TrainClipJob.model_validate(content)


def architecture(parameters: int = 111_000_000) -> Architecture:
    each = parameters // 111
    names = tuple((name, count * each) for name, count in NAMES)
    return Architecture(
        Tower(80 * each, 10.0, 2_000_000, 40_000_000), Tower(31 * each, 6.0, 1_000_000, 30_000_000), parameters, 60 * each, 512, names
    )


@pytest.mark.parametrize("workers", [1, 2, 8, 64])
def test_states_as_deepspeed_estimates_them(workers: int) -> None:
    """DeepSpeed counts 16-bit weights and gradients with fp32 copies; where it has 2 bytes for one of them, we have 4."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    parameters, largest = 1_000_000_000, 50_000_000
    _, theirs = estimate_zero2_model_states_mem_needs(parameters, num_gpus_per_node=workers, num_nodes=1, cpu_offload=False)
    ours = sum(state_bytes(parameters, parameters, largest, 2, workers).values())
    assert ours == pytest.approx(theirs + 2 * parameters + 2 * parameters / workers, rel=1e-6)
    _, theirs, _ = estimate_zero3_model_states_mem_needs(
        parameters, largest, num_gpus_per_node=workers, num_nodes=1, cpu_offload=False, cpu_offload_params=False, zero_init=True
    )
    # The same for the parts of weights; and where it counts 4 bytes of one gathered layer, we count the next one on its way, too.
    ours = sum(state_bytes(parameters, parameters, largest, 3, workers).values())
    assert ours == pytest.approx(theirs + 2 * parameters / workers + 4 * largest, rel=1e-6)


def test_without_zero_a_weight_has_sixteen_bytes() -> None:
    assert sum(state_bytes(10, 10, 1, 0, 8).values()) == 160
    assert sum(state_bytes(10, 10, 1, 0, 8, moments=0).values()) == 80  # plain SGD
    assert sum(state_bytes(10, 4, 1, 0, 8).values()) == 40 + 4 * 12  # the rest is frozen


def test_every_stage_needs_less_than_the_one_before() -> None:
    totals = [sum(state_bytes(1000, 1000, 10, stage, 8).values()) for stage in range(4)]
    assert totals == sorted(totals, reverse=True)


def test_frozen_towers_have_no_gradient_and_keep_nothing() -> None:
    known = architecture()
    assert trained_parameters(known, ["visual.*"]) == (31_000_000, 0, 31_000_000)
    whole = training_memory(known, job(), 2, on_gpu=True)
    frozen = training_memory(known, job(freeze=["visual.*"]), 2, on_gpu=True)
    assert (whole.parts["gradients"] + whole.parts["optimizer"]) - (frozen.parts["gradients"] + frozen.parts["optimizer"]) == pytest.approx(
        12 * 80_000_000 / 2**30
    )
    assert whole.parts["activations"] - frozen.parts["activations"] == pytest.approx(32 * 38_000_000 / 2**30)


def test_micro_batches_precision_and_recomputing_make_activations_smaller() -> None:
    known = architecture()

    def activations(**compute) -> float:
        return training_memory(known, job(compute=compute), 2, on_gpu=True).parts["activations"]

    assert activations() == pytest.approx(32 * 70_000_000 / 2**30)  # 64 pairs on two workers
    assert activations(micro_batch=8) == pytest.approx(activations() / 4)
    assert activations(precision="bf16") == pytest.approx(activations() / 2)
    assert activations(activation_checkpointing=True) < activations() / 3


def test_negative_texts_and_images_count() -> None:
    found = training_memory(architecture(), job(negatives={"texts": 3, "images": 1, "image_pairs": True}), 2, on_gpu=True)
    assert found.parts["activations"] == pytest.approx(32 * (2 * 40_000_000 + 8 * 30_000_000) / 2**30)


def test_embedding_takes_weights_in_its_arithmetic() -> None:
    known = architecture()
    fp32 = embedding_memory(known, "fp32", 256, 512, (224, 224), on_gpu=True)
    bf16 = embedding_memory(known, "bf16", 256, 512, (224, 224), on_gpu=True)
    assert fp32.parts["weights"] == pytest.approx(0.444 * GB / 2**30)
    assert bf16.parts["weights"] == pytest.approx(0.222 * GB / 2**30)
    assert "units" in embedding_memory(known, "fp32", 32, 64, (224, 224), on_gpu=False).parts


def test_what_does_not_fit_is_refused_with_its_parts() -> None:
    (refusal,) = check_memory(Memory({"weights": 20.0, "activations": 5.0}), 22, "the NVIDIA L4", "lower it", "compute")
    assert refusal.what == "a worker needs about 25.0 GiB (weights 20, activations 5), the NVIDIA L4 has 22"
    assert check_memory(Memory({"weights": 20.0}), 22, "the GPU", "", "") == []
    together = check_memory(Memory({"weights": 20.0}), 16, "this machine", "", "", "the workers need")[0].what
    assert together.startswith("the workers need about 20.0 GiB")
    assert check_memory(Memory({"weights": 20.0}), None, "a GPU that nobody knows", "", "") == []


HOLDING = """
import sys
import numpy as np, pyarrow as pa
from fgray.embedding import IMAGE, Work, embed, resolve_compute
from fgray.embedding.requests import IMAGE_SCHEMA, TEXT_SCHEMA
from fgray.embedding.work import plan_work
from fgray.config.schema import ComputeConfig, TinyModel
from fgray.engine.store import ResultStore, build_part
from fgray.models import open_model

folder, count, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
source = open_model(TinyModel(kind="tiny"))
store, random = ResultStore(folder, source.fingerprint()), np.random.default_rng(0)
ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, pa.py_buffer(random.bytes(16 * count))])
for start in range(0, count, 1_000):
    rows = pa.table({"item_id": ids.slice(start, 1_000)})
    values = random.standard_normal((rows.num_rows, width), dtype=np.float32)
    store.commit(IMAGE, build_part(rows, {"value": values}, {}), {})
nulls = {field.name: pa.nulls(count, field.type) for field in IMAGE_SCHEMA if field.name != "item_id"}
images = pa.table([nulls.get(name, ids) for name in IMAGE_SCHEMA.names], schema=IMAGE_SCHEMA)
work = plan_work(images, TEXT_SCHEMA.empty_table(), store, 1000)
assert work.missing == 0
compute = resolve_compute(ComputeConfig(runner="serial"), source)

def status(name):  # getrusage would begin with the memory of the process that started this one
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = status("VmRSS")
embedded, _ = embed(work, source, store, compute, 10**8)
print(status("VmHWM") - before)
"""


@pytest.mark.parametrize(("count", "width"), [(200_000, 512), pytest.param(500_000, 256, marks=pytest.mark.chaos)])
def test_a_driver_holds_every_embedding(tmp_path: Path, count: int, width: int) -> None:
    """Peak memory of reading a real store, in a process of its own."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path), str(count), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3])
    assert done.returncode == 0, done.stderr
    expected = driver_memory(count, width, 1_000)
    most, least = expected.total - expected.parts["process"], expected.parts["embeddings"]
    assert 0.9 * least < int(done.stdout) / 2**30 < 1.1 * most  # how many parts are in flight is a matter of timing
