"""Regions on Ray Train: two workers with unequal numbers of regions give what one process gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.jobs import Command
from tests.training.test_run_regions import job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CASES: dict[str, dict[str, Any]] = {
    "fineclip": {"zero": 0},
    "clipself": {
        "zero": 2,
        "losses": [{"name": "fineclip", "terms": "sd"}],
        "regions": {"image_size": 48, "resize": "letterbox", "teacher": "frozen"},
        "freeze": ["logit_scale", "visual.conv1.*", "visual.ln_post.*", "visual.proj"],
    },
}


@pytest.mark.chaos
@pytest.mark.parametrize("name", CASES)
def test_two_workers_are_one(tmp_path: Path, name: str) -> None:
    changes = dict(CASES[name])
    zero = changes.pop("zero")
    sgd = {"optimizer": {"name": "sgd", "lr": 0.05, "warmup_steps": 0, "ema": 0.8}, "steps": 4, "checkpoints": {"every_steps": 2}}
    one = Command(tmp_path / "one", job(tmp_path / "one", "run", **changes, **sgd))
    two = Command(tmp_path / "two", job(tmp_path / "two", "run", **changes, **sgd, compute={"runner": "ray", "workers": 2, "zero": zero}))
    for command in (one, two):
        command.run()
    logs = [[json.loads(line) for line in (command.output / "log.jsonl").read_text().splitlines()] for command in (one, two)]
    for mine, theirs in zip(*logs, strict=True):
        assert mine["regions"] == theirs["regions"] > 0
        for number in ("loss", "gradient_norm"):
            assert mine[number] == pytest.approx(theirs[number], rel=1e-3)
    ours = one.weights()
    for key, value in two.weights().items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.chaos
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    changes = {"steps": 12, "checkpoints": {"every_steps": 2, "keep": 2}, "compute": {"runner": "ray", "workers": 2, "zero": 2}}
    whole, killed = (Command(tmp_path / name, job(tmp_path / name, "run", **changes)) for name in ("whole", "killed"))
    whole.run()
    killed.kill_after(4)
    assert killed.checkpoints()[-1] < 12
    killed.run()
    assert killed.rows() == whole.rows() and len(whole.rows()) == 12
    theirs = whole.weights()
    for key, value in killed.weights().items():
        assert torch.equal(theirs[key], value), key
