"""What a worker leaves for the driver, and for the workers' next start, when it fails in a way that another attempt would meet again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fgray.config.train import TrainClipJob
from fgray.errors import FgrayError
from fgray.runs import RunFolder
from fgray.training.ray_train import _attempt, _failure
from tests.training.jobs import config, write_pairs


def test_an_error_whose_class_is_defined_elsewhere_keeps_its_line(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(nn.Linear(1, 1), weights)  # a whole module: loading it would import and run what it names
    model = {"kind": "open_clip", "arch": "ViT-B-32", "weights": str(weights), "activation": "gelu"}
    job = TrainClipJob.model_validate(config(write_pairs(tmp_path / "data"), tmp_path / "run", model=model))
    with pytest.raises(FgrayError, match="the pickle wants to run .*Linear") as first:
        _attempt(job, "cpu")
    left = _failure(RunFolder(job.output))
    assert str(left) == str(first.value)
    with pytest.raises(FgrayError) as second:
        _attempt(job, "cpu")
    assert str(second.value) == str(first.value)
