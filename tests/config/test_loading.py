"""From YAML to a job, and what is said when that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.config import config_from_text, load_config
from fgray.config.schema import EvalJob, Lite0MiniLmModel
from fgray.errors import ConfigError

BENCHMARKS = "[spec_style, {name: retrieval, root: data, split: test}]"
GOOD = """\
job: eval
name: test
model: {kind: lite0-minilm}
benchmarks: [spec_style, {name: retrieval, root: data, split: test}]
output: runs/test
"""


def refusal(text: str, *overrides: str) -> list[str]:
    """Return the lines that a user sees."""
    with pytest.raises(ConfigError) as caught:
        config_from_text(text, "f.yaml", overrides)
    return [str(caught.value), *getattr(caught.value, "__notes__", [])]


def test_reads_a_job() -> None:
    job = config_from_text(GOOD, "f.yaml").job
    assert isinstance(job, EvalJob)
    assert isinstance(job.model, Lite0MiniLmModel)
    assert [benchmark.name for benchmark in job.benchmarks] == ["spec_style", "retrieval"]
    assert job.benchmarks[1].root == "data"
    assert job.benchmarks[1].options == {"split": "test"}
    assert job.store_uri == "runs/test/store"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "ouput: x\n", "unknown key 'ouput' [f.yaml:6]: did you mean 'output'?"),
        (GOOD + "compute:\n  threads: 1\n  batch_sise: 3\n", "unknown key 'compute.batch_sise' [f.yaml:8]: did you mean 'batch_size'?"),
        (GOOD.replace("lite0-minilm}", "lite0-minilm, dtype: fp32}"), "unknown key 'model.dtype' [f.yaml:3]: known: kind"),
        (GOOD.replace("output: runs/test\n", ""), "'output' is missing [f.yaml:1]: add it (folder or s3:// prefix of the run folder;"),
        (GOOD.replace("name: test\n", "name: 5\n"), "name must be text (put it in quotes), not 5 [f.yaml:2]: name of the run,"),
        (
            GOOD.replace("kind: lite0-minilm", "kind: lite0-minlm"),
            "model.kind: unknown kind 'lite0-minlm' [f.yaml:3]: did you mean",
        ),
        (GOOD.replace("kind: lite0-minilm", "seed: 1"), "'model.kind' is missing [f.yaml:3]: add it; known: open_clip, hugging_face,"),
        (
            GOOD.replace("{kind: lite0-minilm}", "tiny"),
            "model must be a section of keys and values, not 'tiny' [f.yaml:3]: what",
        ),
        (GOOD.replace("job: eval", "job: evaluate"), "job: unknown job 'evaluate' [f.yaml:1]: did you mean 'eval'?"),
        (GOOD.replace("job: eval\n", ""), "'job' is missing [f.yaml:1]: add it; known: eval, mine, text_negatives, distractors,"),
        (GOOD + "limit: 0\n", "limit must be greater than or equal to 1, not 0 [f.yaml:6]: smoke run: the first N cases"),
        (GOOD + "limit: 1.5\n", "limit must be a whole number, not 1.5 [f.yaml:6]: smoke run: the first N cases"),
        (
            GOOD + "compute: {batch_size: big}\n",
            "compute.batch_size must be a whole number or 'auto', not 'big' [f.yaml:6]",
        ),
        (GOOD + "compute: {runner: rai}\n", "compute.runner cannot be 'rai' [f.yaml:6]: did you mean 'ray'?"),
        (GOOD + "stats: {level: 95}\n", "stats.level must be less than 1, not 95 [f.yaml:6]: confidence level"),
        (
            GOOD.replace(BENCHMARKS, "[]"),
            "benchmarks must be at least 1 item long, not [] [f.yaml:4]",
        ),
        (
            GOOD.replace(BENCHMARKS, "spec"),
            "benchmarks must be a list, not 'spec' [f.yaml:4]",
        ),
        (GOOD.replace("{name: retrieval, ", "{"), "'benchmarks.1.name' is missing [f.yaml:4]: add it (name in `fgray list benchmarks`)"),
        (
            GOOD.replace("{kind: lite0-minilm}", "{kind: precomputed, name: x}"),
            "model: give either scores, or both image_embeddings and text_embeddings [f.yaml:3]",
        ),
    ],
)
def test_one_line_says_what_where_and_how_to_mend(text: str, message: str) -> None:
    (line,) = refusal(text)
    assert line.startswith(message)
    assert "\n" not in line


def test_every_problem_has_its_line() -> None:
    lines = refusal(GOOD + "limt: 5\nstats: {level: 2}\ncompute: {threads: 0, x: 1}\n")
    assert len(lines) == 4
    for piece in ("'limt' [f.yaml:6]: did you mean 'limit'?", "stats.level", "compute.threads", "'compute.x' [f.yaml:8]"):
        assert sum(piece in line for line in lines) == 1


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("comptue.workers=2", "unknown key 'comptue' [--set comptue.workers=2]: did you mean 'compute'?"),
        ("compute.worker=2", "unknown key 'compute.worker' [--set compute.worker=2]: did you mean 'workers'?"),
        ("model.kind=tinny", "model.kind: unknown kind 'tinny' [--set model.kind=tinny]: did you mean 'tiny'?"),
        ("limit=few", "limit must be a whole number, not 'few' [--set limit=few]"),
    ],
)
def test_overrides_are_checked_like_the_file(assignment: str, message: str) -> None:
    (line,) = refusal(GOOD, assignment)
    assert line.startswith(message)


def test_overrides_reach_the_job() -> None:
    job = config_from_text(GOOD, "f.yaml", ["limit=7", "compute.workers=3", "benchmarks.0.cases=5", "model={kind: tiny, seed: 2}"]).job
    assert isinstance(job, EvalJob)
    assert (job.limit, job.compute.workers, job.benchmarks[0].options) == (7, 3, {"cases": 5})
    assert job.model.model_dump() == {"kind": "tiny", "seed": 2}


def test_secrets_are_not_kept_or_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGRAY_TEST_SECRET", "hunter2")
    text = GOOD.replace("root: data", 'root: "s3://${FGRAY_TEST_SECRET}@bucket"')
    config = config_from_text(text, "f.yaml")
    assert isinstance(config.job, EvalJob)
    assert config.job.benchmarks[1].root == "s3://hunter2@bucket"
    assert "hunter2" not in str(config.source)
    assert config.source["benchmarks"][1]["root"] == "s3://${FGRAY_TEST_SECRET}@bucket"
    for line in ("limit: ${FGRAY_TEST_SECRET}", "compute: {runner: '${FGRAY_TEST_SECRET}'}", "data: '${FGRAY_TEST_SECRET}'"):
        (message,) = refusal(GOOD + line + "\n")
        assert "hunter2" not in message
        assert "${FGRAY_TEST_SECRET}" in message


def test_files(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(GOOD)
    assert load_config(str(tmp_path / "quickstart.yaml")).path == str(tmp_path / "quickstart.yaml")
    with pytest.raises(ConfigError, match=r"does not exist .*: did you mean '.*quickstart.yaml'\?"):
        load_config(str(tmp_path / "quickstrat.yaml"))
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(str(tmp_path))
    (tmp_path / "latin1.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(str(tmp_path / "latin1.yaml"))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    )
)
@settings(max_examples=100, deadline=None)
def test_any_section_gives_a_job_or_one_line_errors(value: object) -> None:
    """Whatever stands under a key, the loader explains it and never fails itself."""
    for key in ("model", "benchmarks", "compute", "stats", "limit", "name"):
        try:
            config_from_text(GOOD, "f.yaml", [f"{key}={json.dumps(value)}"])
        except ConfigError as error:
            assert all("\n" not in line for line in (str(error), *getattr(error, "__notes__", [])))
