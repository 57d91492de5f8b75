"""A training job with regions from end to end: killed and resumed, its log, and what self-distillation alone comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import fgray
from fgray.config.loading import config_from_text
from fgray.config.schema import TinyModel, TrainedModel
from fgray.errors import FgrayError
from fgray.models import open_model
from tests.training.jobs import Command, config
from tests.training.test_regions import write

pytestmark = pytest.mark.slow


def job(folder: Path, output: str, **changes: Any) -> dict[str, Any]:
    section = write(folder / "data")
    regions = {"regions": {"most": 4, "teacher": "ema"}, "losses": [{"name": "fineclip", "sd": 0.5, "repeated": False}]}
    content = config(section["pairs"], folder / output, batch_size=10, optimizer={"lr": 0.001, "warmup_steps": 2, "ema": 0.8})
    return content | {"sources": [section]} | regions | changes


def test_killed_and_resumed_with_a_moving_teacher_is_the_uninterrupted_run(tmp_path: Path) -> None:
    """Facts, bug 8: upstream's resume fails, and its random state is lost."""
    whole = Command(tmp_path, job(tmp_path, "whole"))
    whole.run()
    rows = [json.loads(line) for line in (whole.output / "log.jsonl").read_text().splitlines()]
    assert [row["regions"] for row in rows] == [20.0] * 12  # four of a, two of b, four of nine of e, twice each
    assert {"loss/fineclip/gc", "loss/fineclip/sd", "loss/fineclip/rc"} <= set(rows[0])
    run = json.loads((whole.output / "run.json").read_text())
    assert run["loss_weights"] == "gather with_grad on 1 rank, weights: fineclip/gc 1, fineclip/sd 0.5, fineclip/rc 1"
    assert run["sources"][0]["regions"] == 17
    assert "Regions of a step" in (whole.output / "report.html").read_text()
    killed = Command(tmp_path, {**yaml_of(whole), "output": str(tmp_path / "killed")})
    killed.kill_after(6)
    killed.run()
    assert killed.rows() == whole.rows()
    own = killed.weights()
    assert own.keys() == whole.weights().keys() and all(torch.equal(own[name], value) for name, value in whole.weights().items())


def yaml_of(command: Command) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(command.file.read_text())
    return content


def spread(run: Path | None, pictures: np.ndarray) -> float:
    """Return the mean cosine of different pictures' embeddings; 1: all are the same."""
    model = open_model(TinyModel(kind="tiny", seed=3) if run is None else TrainedModel(kind="trained", path=str(run)))
    rows = F.normalize(torch.from_numpy(model.load("cpu").embed_images(pictures)), dim=-1)
    return float(((rows @ rows.T).sum() - len(rows)) / (len(rows) * (len(rows) - 1)))


def test_self_distillation_alone_collapses(tmp_path: Path) -> None:
    """As in the paper: nothing but a teacher that may move towards its student makes every picture the same; a global term, or a teacher
    that stays as it was, prevents that.
    """
    coarse = np.random.default_rng(5).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    pictures = coarse.repeat(8, axis=1).repeat(8, axis=2)
    optimizer = {"lr": 0.001, "warmup_steps": 5, "weight_decay": 0.0, "schedule": "constant"}
    found = {"before": spread(None, pictures)}
    losses = {}
    for name, terms, teacher in (("alone", "sd", "live"), ("with_global", "gc+sd", "live"), ("frozen", "sd", "frozen")):
        content = job(tmp_path / name, "run", steps=60, optimizer=optimizer, checkpoints={"every_steps": 60})
        content |= {"losses": [{"name": "fineclip", "terms": terms}], "regions": {"teacher": teacher}}
        fgray.train(config_from_text(json.dumps(content), "job.yaml"))
        found[name] = spread(tmp_path / name / "run", pictures)
        losses[name] = [json.loads(line) for line in (tmp_path / name / "run" / "log.jsonl").read_text().splitlines()]
    assert losses["alone"][-1]["loss"] < 0.02  # the loss says that all is well
    apart = {name: 1 - value for name, value in found.items()}
    assert apart["alone"] < apart["before"] / 20
    assert apart["with_global"] > 20 * apart["alone"] and apart["frozen"] > 5 * apart["alone"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": [{"name": "fineclip", "upstream": True}]}, "upstream does not go with gather with_grad"),
        ({"regions": {"image_size": 36}}, "pictures of 36 px do not divide into cells of 8 px"),
        ({"losses": ["fineclip"], "regions": None}, "regions are given in two places"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FgrayError, match=message) as caught:
        fgray.train(config_from_text(json.dumps(job(tmp_path, "run", **changes)), "job.yaml"))
    assert "\n" not in str(caught.value)


def test_proposals_need_captions_only_where_a_loss_reads_them(tmp_path: Path) -> None:
    """CLIPSelf trains on boxes without classes; FineCLIP's region contrast would take an empty caption for all of them."""
    content = job(tmp_path, "run", steps=2)
    images = [{"id": number, "file_name": f"{key}.png"} for number, key in enumerate("abcde")]
    boxes = [{"image_id": 0, "bbox": [4, 6, 30, 30]}, {"image_id": 4, "bbox": [10, 10, 20, 40]}]
    (tmp_path / "proposals.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    content["sources"][0]["regions"] = {"boxes": str(tmp_path / "proposals.json"), "template": None}
    with pytest.raises(FgrayError, match="a loss reads captions of regions, and some have none"):
        fgray.train(config_from_text(json.dumps(content), "job.yaml"))
    content |= {"losses": [{"name": "fineclip", "terms": "gc+sd"}], "output": str(tmp_path / "other")}
    fgray.train(config_from_text(json.dumps(content), "job.yaml"))
    rows = [json.loads(line) for line in (tmp_path / "other" / "log.jsonl").read_text().splitlines()]
    assert [row["regions"] for row in rows] == [4.0, 4.0]


def test_the_global_term_alone_sees_the_pictures_that_the_other_terms_see(tmp_path: Path) -> None:
    """Else an ablation would compare ways of resizing, too: pictures with regions are squashed, the model by itself crops."""
    found = {}
    for terms in ("gc", "gc+sd+rc"):
        content = job(tmp_path / terms, "run", steps=1, losses=[{"name": "fineclip", "terms": terms}], checkpoints={"every_steps": 1})
        fgray.train(config_from_text(json.dumps(content), "job.yaml"))
        row = json.loads((tmp_path / terms / "run" / "log.jsonl").read_text().splitlines()[0])
        found[terms] = row.get("loss/fineclip/gc", row["loss"])
    assert found["gc"] == pytest.approx(found["gc+sd+rc"], abs=1e-6)
