"""The exported JSON schema, and the configurations that the project ships."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from fgray.config import load_config
from fgray.config.jobs import json_schema
from fgray.config.loop import LoopJob
from fgray.config.schema import BenchJob, DistractorsJob, EvalJob, MineJob, TextNegativesJob
from fgray.config.train import TrainClipJob

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((PROJECT / "configs").rglob("*.yaml"))


def properties(schema: dict) -> Iterator[tuple[str, dict]]:
    for owner, definition in schema["$defs"].items():
        for name, content in definition["properties"].items():
            yield f"{owner}.{name}", content


def test_every_field_is_described() -> None:
    assert [name for name, content in properties(json_schema()) if not content.get("description")] == []


def test_there_are_configs() -> None:
    assert {path.relative_to(PROJECT).as_posix() for path in CONFIGS} >= {
        "configs/quickstart.yaml",
        "configs/eval/spec.yaml",
        "configs/bench/eval.yaml",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    job = load_config(str(path)).job
    kinds = {
        "bench": BenchJob,
        "gpu": BenchJob,
        "loop": LoopJob,
        "mine": (MineJob, DistractorsJob),
        "text_negatives": TextNegativesJob,
        "train": TrainClipJob,
    }
    assert isinstance(job, kinds.get(path.parent.name, EvalJob))
    assert not Path(job.output).is_absolute()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_open_with_their_command_and_time(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# fgray submit {path.relative_to(PROJECT).as_posix()}")
    assert re.search(r"second|minute|hour|as long as", first), "say how long it takes"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_editor_accepts_shipped_configs(path: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


@pytest.mark.parametrize("change", [{"ouput": "x"}, {"model": {"kind": "nothing"}}, {"limit": 0}, {"benchmarks": []}])
def test_an_editor_refuses_what_the_loader_refuses(change: dict) -> None:
    good = yaml.safe_load((PROJECT / "configs/quickstart.yaml").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, **change}, json_schema())


def test_seeds_repeat_the_quickstart() -> None:
    """Both files stand in full, for one of them to be read on its own."""
    quick, seeds = (yaml.safe_load((PROJECT / f"configs/loop/{name}.yaml").read_text()) for name in ("quickstart", "seeds"))
    own = {"name": "loop-seeds", "output": "runs/loop-seeds", "seeds": [0, 1, 2]}
    assert seeds == {**quick, **own}


def test_the_demo_loop_selects_on_other_drawings_than_it_judges() -> None:
    job = load_config(str(PROJECT / "configs/loop/quickstart.yaml")).job
    assert isinstance(job, LoopJob) and job.wise_ft is not None
    judged = json.dumps([one.model_dump(mode="json") for one in job.benchmarks])
    selected = json.dumps([one.model_dump(mode="json") for one in job.wise_ft.benchmarks])
    trained = json.dumps([source.pairs.model_dump(mode="json") for arm in (job.base, *job.arms.values()) if arm for source in arm.sources])
    assert ("test" in judged, "test" in selected, "test" in trained) == (True, False, False)
    assert ("selection" in judged, "selection" in trained, "train" in judged) == (False, False, False)
    assert len({arm.steps for arm in job.arms.values()}) == 1, "arms take equally many steps"
