"""Distractors against FOCI's procedure in plain Python, and the job from images to FOCI's file."""

from __future__ import annotations

import json
import math
import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fgray.benchmarks.packed import import_benchmark
from fgray.config.schema import DistractorsJob, TinyModel
from fgray.errors import ConfigError, RunError
from fgray.mining.distractors import DistractorsResult, mine_distractors
from fgray.mining.foci import check_foci
from fgray.mining.options import choose_options
from fgray.models import open_model
from fgray.runs import RunFolder
from tests.small_data import write_picture

CLASSES = ["cat", "dog", "gold_fish", "horse", "owl", "red_fox"]
PER_CLASS = 4


def foci(scores: list[Any], truth: int, options: int = 4) -> list[int]:
    """FOCI's own steps (facts: options_generation.generate_options), with a stable sort in place of its argsort."""
    last = sorted(range(len(scores)), key=lambda label: scores[label])[-options:]
    if truth in last:
        return [truth, *(label for label in last if label != truth)]
    return [truth, *last[1:]]


# --- the choice ---------------------------------------------------------------------------------------------------------


def exact(image: list[float], label: list[float]) -> Fraction:
    return sum((Fraction(a) * Fraction(b) for a, b in zip(image, label, strict=True)), Fraction(0))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10_000), st.integers(5, 12), st.integers(2, 5), st.integers(1, 3))
def test_the_choice_is_foci_s_with_ties_and_all(seed: int, labels: int, options: int, dim: int) -> None:
    draw = random.Random(seed)

    def vectors(count: int) -> list[list[float]]:  # few distinct values, exact in fp32: many labels tie
        return [[draw.randrange(-2, 3) / 4 for _ in range(dim)] for _ in range(count)]

    images, prompts = vectors(9), vectors(labels)
    truth = [draw.randrange(labels) for _ in images]
    found = choose_options(np.array(images, np.float32), np.array(prompts, np.float32), np.array(truth), options - 1)
    for row, (image, right) in enumerate(zip(images, truth, strict=True)):
        scores = [exact(image, prompt) for prompt in prompts]
        expected = foci(scores, right, options)
        assert [right, *found.wrong[row].tolist()] == expected
        assert found.scores[row].tolist() == [float(scores[label]) for label in expected[1:]]
        assert found.truth_score[row] == float(scores[right])
        order = sorted(range(labels), key=lambda label: scores[label])
        assert found.truth_rank[row] == labels - order.index(right)


def test_more_images_than_a_block_are_all_answered() -> None:
    draw = np.random.default_rng(0)
    images, labels = (draw.standard_normal((count, 8)).astype(np.float32) for count in (2500, 7))
    images, labels = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, labels))
    truth = draw.integers(0, 7, 2500)
    found = choose_options(images, labels, truth, 3)
    for row in [0, 1023, 1024, 2047, 2048, 2499]:
        scores = [math.fsum(a * b for a, b in zip(images[row].tolist(), label.tolist(), strict=True)) for label in labels]
        assert [truth[row], *found.wrong[row]] == foci(scores, truth[row])
        assert found.scores[row] == pytest.approx([scores[label] for label in found.wrong[row]], abs=1e-6)


# --- the job ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with pictures."""
    root = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(CLASSES):
        for picture in range(PER_CLASS):
            write_picture(root / name / f"{picture}.jpg", 100 * number + picture)
    return root


def job_of(root: Path, output: Path, **changes: Any) -> DistractorsJob:
    content = {
        "job": "distractors",
        "name": "d",
        "model": {"kind": "tiny"},
        "data": {"root": str(root)},
        "classes": {"name": "zero_shot", "dataset": "small"},
        "compute": {"runner": "serial", "batch_size": 8, "unit_rows": 8},
        "output": str(output),
        **changes,
    }
    return DistractorsJob.model_validate(content)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> DistractorsResult:
    return mine_distractors(job_of(data, tmp_path_factory.mktemp("run") / "out"))


def questions_of(result: DistractorsResult) -> dict[str, list[dict[str, Any]]]:
    content: dict[str, list[dict[str, Any]]] = json.loads(RunFolder(result.uri).storage.read_bytes("distractors.json"))
    return content


def test_the_file_holds_what_the_model_finds(data: Path, run: DistractorsResult) -> None:
    names = [name.replace("_", " ") for name in CLASSES]
    source = open_model(TinyModel(kind="tiny"))
    model = source.load("cpu")
    prompts = model.embed_texts([f"an image of a {name}" for name in names]).values.astype(np.float64)
    expected: dict[str, list[dict[str, Any]]] = {}
    for number, (folder, name) in enumerate(zip(CLASSES, names, strict=True)):
        for picture in range(PER_CLASS):
            path = data / folder / f"{picture}.jpg"
            pixels = source.preprocess(Image.open(path).convert("RGB"))
            image = model.embed_images(pixels[None])[0].astype(np.float64)
            scores = [math.fsum(image * prompt) for prompt in prompts]
            assert min(b - a for a, b in zip(sorted(scores), sorted(scores)[1:], strict=False)) > 1e-6  # no near tie decides
            options = [names[label] for label in foci(scores, number)]
            expected.setdefault(name, []).append({"image": f"{folder}/{picture}.jpg", "options": options, "groundtruth": name})
    assert questions_of(run) == expected
    check_foci(questions_of(run))


def test_confusions_and_ranks_are_those_of_the_file(run: DistractorsResult) -> None:
    counted: dict[str, dict[str, int]] = {}
    for label, questions in questions_of(run).items():
        for question in questions:
            for option in question["options"][1:]:
                counts = counted.setdefault(label, {})
                counts[option] = counts.get(option, 0) + 1
    assert run.metrics["confusions"] == counted
    rows = RunFolder(run.uri).read_table("distractors.parquet").to_pylist()
    assert run.metrics["questions"] == len(rows) == len(CLASSES) * PER_CLASS
    for row in rows:
        assert row["scores"] == sorted(row["scores"])
        assert (row["label_rank"] == 1) == (row["label_score"] > row["scores"][-1])
        assert (row["label_rank"] <= 3) == (row["label_score"] > row["scores"][0])
    assert run.metrics["right_label"] == {
        "first": sum(row["label_rank"] == 1 for row in rows),
        "among_the_first": sum(row["label_rank"] <= 4 for row in rows),
    }


def test_the_report_shows_questions_and_confusions(run: DistractorsResult) -> None:
    page = BeautifulSoup(RunFolder(run.uri).storage.read_bytes("report.html"), "html.parser")
    table = {
        row.th.get_text(): [item.get_text(" ", strip=True) for item in row.select("li")] for row in page.select("#confusions tbody tr")
    }
    assert {label: set(items) for label, items in table.items()} == {
        label: {f"{name} {count}" for name, count in counts.items()} for label, counts in run.metrics["confusions"].items()
    }
    questions = {question["image"]: question for rows in questions_of(run).values() for question in rows}
    cards = page.select("[data-card]")
    assert len(cards) == len(questions)
    for card in cards:
        options = [option.get_text() for option in card.select(".texts .text")]
        assert options == questions[card.select_one(".id").get_text()]["options"]
        assert card.select_one(".query img")["src"].startswith("data:image/webp")


def test_a_finished_run_is_not_computed_again_and_gives_the_same_bytes(data: Path, run: DistractorsResult) -> None:
    folder = RunFolder(run.uri)
    names = ["distractors.json", "distractors.parquet", "metrics.json", "report.html"]
    before = {name: folder.storage.read_bytes(name) for name in names}
    parts = {info.path: info.version for info in folder.storage.list("store") if "/part-" in info.path}
    mine_distractors(job_of(data, Path(run.uri)))
    assert {name: folder.storage.read_bytes(name) for name in names} == before
    assert parts and {info.path: info.version for info in folder.storage.list("store") if "/part-" in info.path} == parts


def test_another_configuration_does_not_overwrite_a_run(data: Path, run: DistractorsResult) -> None:
    with pytest.raises(RunError, match="another configuration"):
        mine_distractors(job_of(data, Path(run.uri), options=3))


def test_options_template_and_limit_are_obeyed(data: Path, tmp_path: Path) -> None:
    result = mine_distractors(job_of(data, tmp_path / "a", options=3, limit=5, template="{label}"))
    questions = questions_of(result)
    assert {label: len(rows) for label, rows in questions.items()} == {"cat": 4, "dog": 1}  # no label without questions
    check_foci(questions, options=3)
    prompts = RunFolder(result.uri).read_table("items.parquet").num_rows
    assert prompts == 5 + len(CLASSES)


def test_a_packed_folder_gives_keys_as_images(data: Path, run: DistractorsResult, tmp_path: Path) -> None:
    import_benchmark("zero_shot", str(data), str(tmp_path / "packed"), {"dataset": "small"})
    packed = questions_of(mine_distractors(job_of(tmp_path / "packed", tmp_path / "out")))
    plain = questions_of(run)
    assert [row["image"] for row in packed["cat"]] == [row["image"].removesuffix(".jpg") for row in plain["cat"]]
    assert [row["options"] for rows in packed.values() for row in rows] == [row["options"] for rows in plain.values() for row in rows]


def test_classes_of_one_name_are_one_label(data: Path, tmp_path: Path) -> None:
    names = ["cat", "dog", "fish", "horse", "owl", "dog"]
    questions = questions_of(
        mine_distractors(job_of(data, tmp_path / "a", classes={"name": "zero_shot", "dataset": "small", "classes": names}))
    )
    check_foci(questions)
    assert [row["image"].partition("/")[0] for row in questions["dog"]] == ["dog"] * PER_CLASS + ["red_fox"] * PER_CLASS


def test_a_corrupt_image_is_set_aside_within_the_tolerated_share(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "owl" / "1.jpg").write_bytes(b"not an image")
    with pytest.raises(RunError, match=r"1 of 30 items cannot be computed.*quarantine\.parquet"):
        mine_distractors(job_of(tmp_path / "data", tmp_path / "out"))
    tolerant = {"root": str(tmp_path / "data"), "max_corrupt_fraction": 0.1}
    result = mine_distractors(job_of(tmp_path / "data", tmp_path / "out", data=tolerant))
    assert [row["image"] for row in questions_of(result)["owl"]] == ["owl/0.jpg", "owl/2.jpg", "owl/3.jpg"]
    (row,) = RunFolder(result.uri).read_table("quarantine.parquet").to_pylist()
    assert (row["key"], row["stage"]) == ("owl/1", "decode")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": 7}, "6 labels for 7 options"),
        ({"template": "an image"}, "no place for the label"),
        ({"classes": {"name": "retrieval"}}, "no class names"),
        ({"model": {"kind": "precomputed", "name": "x", "scores": "x.csv"}}, "need a dual encoder"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(
    data: Path, data_root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    root = data_root / "flickr8k" if "classes" in changes else data
    with pytest.raises(ConfigError, match=message):
        mine_distractors(job_of(root, tmp_path / "out", **changes))


@pytest.mark.slow
def test_cub30_with_a_real_encoder_has_the_structure_of_foci_s_file(data_root: Path, tmp_path: Path) -> None:
    pattern = r"^images/(?P<name>[^/]+)/"
    classes = {"name": "zero_shot", "dataset": "cub30", "pattern": pattern}
    job = job_of(data_root / "cub30", tmp_path / "out", model={"kind": "lite0-minilm"}, classes=classes, limit=45)
    mined = questions_of(mine_distractors(job))
    real = json.loads((data_root / "annotations" / "foci" / "cub30.json").read_text())
    labels = [label.replace("_", " ") for label in real]
    assert list(mined) == labels[:3]
    for label, rows in mined.items():
        assert [row["image"] for row in rows] == [row["image"] for row in real[label.replace(" ", "_")]][: len(rows)]
        assert all(tuple(row) == tuple(real["Rock_Wren"][0]) and set(row["options"]) <= set(labels) for row in rows)
