"""Independent scorers: plain loops over the official files, the model called directly one item at a time, dots in fp64.

Nothing of fgray but the model is used here to find the right answers; predictions must be equal wherever the best two scores
lie more than 1e-5 apart. Near ties are counted and printed.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fgray.benchmarks.spec_style import SpecStyle
from fgray.config.schema import TinyModel
from fgray.models import open_model
from tests.benchmarks.layouts import CONSTANT_MODEL, dump, noise, run, words, write_spec

MARGIN = 1e-5
TEMPLATES = ["a photo of a {c}.", "{c}", "two small {c} on a red tree"]
CLASSES = ["cat", "dog", "red car", "tree", "left dog", "photo"]
SUBSETS = {"existence": 2, "relative_spatial": 4, "count": 9}
CATEGORIES = ("swap_obj", "add_att")
STYLE = {"cases": 1, "subsets": ["existence", "relative_size"]}


def write_all(root: Path) -> list[dict[str, Any]]:
    """Write one small benchmark of every kind and return the configuration of a run over all of them."""
    rng = random.Random(3)
    write_spec(root / "spec", SUBSETS, sets=3)
    for number in range(12):
        noise(root / f"sugarcrepe/images/{number:012d}.jpg", 500 + number)
    for category in CATEGORIES:
        items = {}
        for number in range(0, 40, 2):  # keys with gaps
            caption, negative = words(rng, 6), words(rng, 6)
            if number == 4:
                negative = caption  # an exact tie
            items[str(number)] = {"filename": f"{rng.randrange(12):012d}.jpg", "caption": caption, "negative_caption": negative}
        dump(root / f"sugarcrepe/data/{category}.json", items)
    lines = []
    for number in range(30):
        noise(root / f"captions/images/{number}.jpg", 900 + number)
        captions = [words(rng, 4) for _ in range(rng.randint(1, 5))]
        lines.append(json.dumps({"image": f"images/{number}.jpg", "split": "test" if number % 6 else "val", "captions": captions}) + "\n")
    (root / "captions/captions.jsonl").write_text("".join(lines))
    for number in range(33):
        noise(root / f"classes/{CLASSES[number % len(CLASSES)].replace(' ', '_')}/{number}.png", 1300 + number)
    return [
        {"name": "spec", "root": str(root / "spec"), "subsets": list(SUBSETS)},
        {"name": "spec_style", **STYLE},
        {"name": "sugarcrepe", "root": str(root / "sugarcrepe"), "categories": list(CATEGORIES)},
        {"name": "retrieval", "root": str(root / "captions")},
        {"name": "zero_shot", "root": str(root / "classes"), "dataset": "six", "templates": TEMPLATES},
    ]


class Direct:
    """The model called directly, one image or text at a time."""

    def __init__(self) -> None:
        source = open_model(TinyModel(kind="tiny"))
        self.preprocess, self.encoder = source.preprocess, source.load("cpu")
        self.seen: dict[Any, np.ndarray] = {}

    def image(self, path: Path) -> np.ndarray:
        if path not in self.seen:
            pixels = self.preprocess(Image.open(path).convert("RGB"))
            self.seen[path] = self.encoder.embed_images(pixels[None])[0].astype(np.float64)
        return self.seen[path]

    def text(self, text: str) -> np.ndarray:
        if text not in self.seen:
            self.seen[text] = self.encoder.embed_texts([text]).values[0].astype(np.float64)
        return self.seen[text]


def dot(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        total += x * y
    return total


Answers = dict[str, tuple[list[float], list[int]]]  # case id -> scores in candidate order, right positions


def spec_answers(model: Direct, root: Path, subsets: list[str]) -> Answers:
    answers: Answers = {}
    for subset in subsets:
        for number, row in enumerate(json.loads((root / subset / "image2text.json").read_text())):
            query = model.image(root / subset / row["query"])
            answers[f"{subset}/i2t/{number:05d}"] = ([dot(query, model.text(text)) for text in row["keys"]], [row["label"]])
        for number, row in enumerate(json.loads((root / subset / "text2image.json").read_text())):
            query = model.text(row["query"])
            images = [model.image(root / subset / path) for path in row["keys"]]
            answers[f"{subset}/t2i/{number:05d}"] = ([dot(query, image) for image in images], [row["label"]])
    return answers


def sugarcrepe_answers(model: Direct, root: Path) -> Answers:
    answers: Answers = {}
    for category in CATEGORIES:
        for key, item in json.loads((root / f"data/{category}.json").read_text()).items():
            image = model.image(root / "images" / item["filename"])
            scores = [dot(image, model.text(item[name])) for name in ("caption", "negative_caption")]
            answers[f"{category}/{int(key):04d}"] = (scores, [0])
    return answers


def retrieval_answers(model: Direct, root: Path) -> Answers:
    answers: Answers = {}
    rows = [json.loads(line) for line in (root / "captions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "test"]
    captions = [(number, text) for number, row in enumerate(rows) for text in row["captions"]]
    for number, row in enumerate(rows):
        image = model.image(root / row["image"])
        right = [place for place, (owner, _) in enumerate(captions) if owner == number]
        answers[f"captions/text_retrieval/{number:06d}"] = ([dot(image, model.text(text)) for _, text in captions], right)
    for place, (owner, text) in enumerate(captions):
        scores = [dot(model.text(text), model.image(root / row["image"])) for row in rows]
        answers[f"captions/image_retrieval/{place:06d}"] = (scores, [owner])
    return answers


def zero_shot_answers(model: Direct, root: Path) -> Answers:
    answers: Answers = {}
    folders = sorted(path.name for path in root.iterdir())
    weights = []
    for folder in folders:
        total = np.zeros(32)
        for template in TEMPLATES:
            total = total + model.text(template.replace("{c}", folder.replace("_", " ")))
        mean = total / len(TEMPLATES)
        weights.append(mean / math.sqrt(dot(mean, mean)))
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    for number, file in enumerate(files):
        scores = [dot(model.image(root / file), weight) for weight in weights]
        answers[f"six/{number:07d}"] = (scores, [folders.index(Path(file).parent.name)])
    return answers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Answers]]:
    root = tmp_path_factory.mktemp("world")
    benchmarks = write_all(root)
    composed = Path(SpecStyle(**STYLE).load(None, str(root / "composed")).images.root_uri)
    model = Direct()
    answers = {
        "spec": spec_answers(model, root / "spec", list(SUBSETS)),
        "spec_style": spec_answers(model, composed, STYLE["subsets"]),  # type: ignore[arg-type]
        "sugarcrepe": sugarcrepe_answers(model, root / "sugarcrepe"),
        "retrieval/captions": retrieval_answers(model, root / "captions"),
        "zero_shot/six": zero_shot_answers(model, root / "classes"),
    }
    return benchmarks, answers


def prefix(row: dict[str, Any]) -> str:
    return {"retrieval": "retrieval/captions", "zero_shot": "zero_shot/six"}.get(row["benchmark"], row["benchmark"])


@pytest.mark.parametrize(
    ("runner", "batch_size", "workers"),
    [
        ("serial", 1, 1),
        ("serial", 7, 1),
        ("serial", 64, 1),
        ("ray", 7, 2),
        pytest.param("ray", 1, 2, marks=pytest.mark.chaos),
        pytest.param("ray", 64, 2, marks=pytest.mark.chaos),
    ],  # fmt: skip
)
def test_every_prediction(
    world: tuple[list[dict[str, Any]], dict[str, Answers]], tmp_path: Path, runner: str, batch_size: int, workers: int
) -> None:
    benchmarks, answers = world
    compute = {"runner": runner, "batch_size": batch_size, "workers": workers, "unit_rows": 40}
    result, _ = run(tmp_path / "run", benchmarks, {"kind": "tiny"}, **compute)
    from fgray.runs import RunFolder

    rows = RunFolder(result.uri).read_table(RunFolder.SAMPLES).to_pylist()
    assert {name: len(found) for name, found in answers.items()} == {name: sum(prefix(row) == name for row in rows) for name in answers}, (
        "every case of the files is there, and no other"
    )
    near, hits = 0, {name: 0 for name in answers}
    for row in rows:
        scores, labels = answers[prefix(row)][row["case_id"]]
        assert row["labels"] == labels and row["num_candidates"] == len(scores)
        assert row["scores"] == pytest.approx([scores[place] for place in row["shown"]], abs=MARGIN)
        best = sorted(scores, reverse=True)
        if best[0] - best[1] <= MARGIN:
            near += 1
        else:
            assert row["prediction"] == scores.index(best[0]), row["case_id"]
        right = max(scores[label] for label in labels)
        wrong = [score for place, score in enumerate(scores) if place not in labels]
        if all(abs(score - right) > MARGIN for score in wrong):
            assert row["greater"] == sum(score > right for score in wrong), row["case_id"]
        hits[prefix(row)] += scores.index(best[0]) in labels
    print(f"{runner}, batch {batch_size}, {workers} worker(s): {len(rows)} cases, {near} near ties")
    assert 0 < near < 0.2 * len(rows), "the doubled captions are ties, most cases are none"
    assert all(0 < count < len(answers[name]) for name, count in hits.items()), "both outcomes occur everywhere"
    # Metrics that follow from the predictions alone, by counting.
    assert result.metrics["zero_shot/six/acc1"]["correct"] == hits["zero_shot/six"]


def expected_correct(answers: Answers, select: Callable[[str], bool], k: int) -> int:
    """Count queries of a constant scorer under ties `first`: the first k candidates are those listed first."""
    return sum(any(label < k for label in labels) for case, (_, labels) in answers.items() if select(case))


def test_a_constant_scorer_gets_what_the_tie_policy_says(world: tuple[list[dict[str, Any]], dict[str, Answers]], tmp_path: Path) -> None:
    benchmarks, answers = world
    result, _ = run(tmp_path / "run", benchmarks, CONSTANT_MODEL)
    found = {name: entry["correct"] for name, entry in result.metrics.items()}
    # SPEC: the first candidate wins, so the label's place decides: one query in K.
    for subset, k in SUBSETS.items():
        for task in ("i2t", "t2i"):
            assert found[f"spec/{subset}/{task}_accuracy"] == 3
            assert result.metrics[f"spec/{subset}/{task}_accuracy"]["value"] == pytest.approx(1 / k)
    # SugarCrepe: strict, so nothing is right.
    for category in CATEGORIES:
        assert found[f"sugarcrepe/{category}/accuracy"] == 0
    for task in ("text_retrieval", "image_retrieval"):
        for k in (1, 5, 10):
            want = expected_correct(answers["retrieval/captions"], lambda case, task=task: task in case, k)
            assert found[f"retrieval/captions/{task}_recall@{k}"] == want
    for k in (1, 5):
        assert found[f"zero_shot/six/acc{k}"] == expected_correct(answers["zero_shot/six"], lambda case: True, k)
    for policy, value in (("first", 1.0), ("expected", 0.5)):
        one = {"name": "sugarcrepe", "root": benchmarks[2]["root"], "categories": ["swap_obj"], "ties": policy}
        other, _ = run(tmp_path / policy, [one], CONSTANT_MODEL)
        assert other.metrics["sugarcrepe/swap_obj/accuracy"]["value"] == value
