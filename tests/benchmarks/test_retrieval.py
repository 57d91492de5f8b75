"""Image-text retrieval: hand-counted recalls, the caption formats, Flickr8k, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fgray.benchmarks.captions import Captioned, read_captions
from fgray.benchmarks.retrieval import SOURCES, Retrieval
from fgray.errors import ConfigError, DataError
from fgray.storage import open_storage
from tests.benchmarks.layouts import BLUE, COLOUR_MODEL, PURPLE, RED, dump, run, solid


def write_lines(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_colours(root: Path) -> None:
    for name, colour in {"r": RED, "b": BLUE, "p": PURPLE}.items():
        solid(root / f"{name}.png", colour)
    captions = {"r": ["red", "purple"], "b": ["blue"], "p": ["red"]}
    rows = [{"image": f"{name}.png", "split": "test", "captions": texts} for name, texts in captions.items()]
    write_lines(root / "captions.jsonl", [*rows, {"image": "gone.png", "split": "train", "captions": ["white"]}])


def test_hand_counted(tmp_path: Path) -> None:
    """Captions red, purple (of r), blue (of b), red (of p).

    Images ask: r finds its "red" first (tied with p's "red", which comes later): a hit. b finds "blue". p finds "purple",
    which is r's. Captions ask: "red" of r finds r; "purple" of r finds p; "blue" finds b; "red" of p finds r.
    """
    write_colours(tmp_path / "d")
    result, samples = run(tmp_path / "run", [{"name": "retrieval", "root": str(tmp_path / "d")}], COLOUR_MODEL)
    counts = {name.removeprefix("retrieval/captions/"): (entry["correct"], entry["count"]) for name, entry in result.metrics.items()}
    assert counts == {
        "text_retrieval_recall@1": (2, 3),
        "text_retrieval_recall@5": (3, 3),
        "text_retrieval_recall@10": (3, 3),
        "image_retrieval_recall@1": (2, 4),
        "image_retrieval_recall@5": (4, 4),
        "image_retrieval_recall@10": (4, 4),
    }
    asked = samples["captions/text_retrieval/000002"]  # p
    assert (asked["labels"], asked["prediction"], asked["num_candidates"]) == ([3], 1, 4)
    # Exact chance of a hit with m right among N: 1 - C(N-m, k) / C(N, k); here m = 2, 1, 1 of 4 and 1 of 3.
    assert result.metrics["retrieval/captions/text_retrieval_recall@1"]["chance"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    assert result.metrics["retrieval/captions/image_retrieval_recall@1"]["chance"] == pytest.approx(1 / 3)
    by_cluster: dict[str, int] = {}
    for row in samples.values():
        by_cluster[row["cluster_id"]] = by_cluster.get(row["cluster_id"], 0) + 1
    assert by_cluster == {"r": 3, "b": 2, "p": 2}, "an image and its captions are one cluster"


def test_a_damaged_image_leaves_the_pool_and_takes_only_its_own_cases_along(tmp_path: Path) -> None:
    """Without r: b finds "blue"; p finds "purple" of r, and its own "red" is second. Captions: "blue" finds b, "red" of p finds p."""
    write_colours(tmp_path / "d")
    (tmp_path / "d/r.png").write_bytes(b"")
    tolerant = {"data": {"max_corrupt_fraction": 0.5}}
    result, samples = run(tmp_path / "run", [{"name": "retrieval", "root": str(tmp_path / "d")}], COLOUR_MODEL, job=tolerant)
    excluded = {case.removeprefix("captions/"): row["excluded"] for case, row in samples.items() if row["excluded"]}
    assert excluded == {
        "text_retrieval/000000": "query: decode: zero bytes",
        "image_retrieval/000000": "right candidate: decode: zero bytes",
        "image_retrieval/000001": "right candidate: decode: zero bytes",
    }
    blue, red = (samples[f"captions/image_retrieval/{number:06d}"] for number in (2, 3))
    assert [(row["num_candidates"], row["prediction"], row["labels"], row["shown"]) for row in (blue, red)] == [
        (2, 1, [1], [1, 2]),
        (2, 2, [2], [2, 1]),
    ], "positions are those of the whole pool"
    recall = {task: result.metrics[f"retrieval/captions/{task}_recall@1"] for task in ("text_retrieval", "image_retrieval")}
    assert [(entry["correct"], entry["count"], entry["excluded"]) for entry in recall.values()] == [(1, 2, 1), (2, 2, 2)]
    assert recall["image_retrieval"]["chance"] == 1 / 2 and recall["text_retrieval"]["chance"] == 1 / 4


def test_other_split(tmp_path: Path) -> None:
    write_colours(tmp_path)
    solid(tmp_path / "gone.png", RED)
    loaded = Retrieval(split="train").load(str(tmp_path), str(tmp_path / "cache"))
    assert loaded.cases.table.num_rows == 2
    with pytest.raises(DataError, match="no images of split 'validation' .*it has test, train"):
        Retrieval(split="validation").load(str(tmp_path), str(tmp_path / "cache"))


def test_flickr8k(data_root: Path, tmp_path: Path) -> None:
    loaded = Retrieval(dataset="flickr8k").load(str(data_root / "flickr8k"), str(tmp_path / "cache"))
    tasks = loaded.cases.table["task"].to_pylist()
    assert (tasks.count("text_retrieval"), tasks.count("image_retrieval")) == (500, 2500)
    assert {name: len(members) for name, members in loaded.cases.pools.items()} == {"flickr8k/images": 500, "flickr8k/captions": 2500}
    assert not loaded.official, "the official test split has 1,000 images"
    for row in loaded.cases.table.slice(0, 12).to_pylist():
        if row["task"] == "text_retrieval":
            assert row["labels"] == [5 * int(row["case_id"][-6:]) + n for n in range(5)]


@pytest.mark.parametrize("name", ["c.txt", "d.jsonl"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_caption_may_hold_other_line_separators(tmp_path: Path, name: str, newline: str) -> None:
    """JSON allows U+2028 and U+0085 within a text as they stand; only a newline ends a line."""
    caption = "one\u2028two\u0085three"
    lines = {
        "c.txt": ["image,caption", f"x.jpg,{caption}"],
        "d.jsonl": [json.dumps({"image": "x.jpg", "captions": [caption]}, ensure_ascii=False)],
    }
    (tmp_path / name).write_bytes("".join(line + newline for line in lines[name]).encode())
    assert read_captions(open_storage(str(tmp_path)), name, "test") == [Captioned("x.jpg", [caption])]


def test_coco_karpathy_reads_the_official_captions(data_root: Path) -> None:
    storage = open_storage(str(data_root / "annotations/aro"))
    found = read_captions(storage, "coco_karpathy_test.json", "test")
    assert (len(found), sum(len(item.captions) for item in found)) == SOURCES["coco_karpathy"].counts == (5000, 25010)
    assert found[0].image == "val2014/COCO_val2014_000000391895.jpg"


def test_coco_karpathy_is_official_by_counts_and_hash(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "annotations/aro/coco_karpathy_test.json"
    (tmp_path / "coco_karpathy_test.json").write_bytes(source.read_bytes())
    (tmp_path / "val2014").mkdir()
    for number, row in enumerate(json.loads(source.read_text())):
        (tmp_path / row["image"]).write_bytes(number.to_bytes(4, "big"))  # never decoded here
    loaded = Retrieval(dataset="coco_karpathy").load(str(tmp_path), str(tmp_path / "cache"))
    assert loaded.cases.table.num_rows == 30_010
    assert loaded.official
    changed = source.read_text().replace("red helmet", "blue helmet", 1)
    (tmp_path / "coco_karpathy_test.json").write_text(changed)
    assert not Retrieval(dataset="coco_karpathy").load(str(tmp_path), str(tmp_path / "cache")).official
    (tmp_path / "mine.json").write_text(changed)
    renamed = Retrieval(dataset="coco_karpathy", annotations="mine.json").load(str(tmp_path), str(tmp_path / "cache"))
    assert renamed.cases.table.num_rows == 30_010 and not renamed.official, "another name does not make another file official"
    (tmp_path / "mine.json").write_bytes(source.read_bytes())
    assert Retrieval(dataset="coco_karpathy", annotations="mine.json").load(str(tmp_path), str(tmp_path / "cache")).official


FORMATS: dict[str, str] = {
    "a.json": json.dumps([{"image": "x.jpg", "caption": ["one", "two"]}, {"image": "y.jpg", "caption": ["three, with comma"]}]),
    "b.json": json.dumps(
        {
            "images": [{"id": 9, "file_name": "y.jpg"}, {"id": 2, "file_name": "x.jpg"}],
            "annotations": [
                {"image_id": 9, "caption": "three, with comma"},
                {"image_id": 2, "caption": "one"},
                {"image_id": 2, "caption": "two"},
            ],
        }
    ),
    "c.txt": "image,caption\nx.jpg,one\nx.jpg,two\ny.jpg,three, with comma\n",
    "d.jsonl": '{"image": "x.jpg", "captions": ["one", "two"]}\n\n{"image": "y.jpg", "split": "test", "captions": ["three, with comma"]}\n',
}


@pytest.mark.parametrize("name", FORMATS)
def test_caption_formats_mean_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMATS[name])
    found = read_captions(open_storage(str(tmp_path)), name, "test")
    assert found == [Captioned("x.jpg", ["one", "two"]), Captioned("y.jpg", ["three, with comma"])]


@pytest.mark.parametrize(
    ("dataset", "annotations", "image"),
    [
        ("coco_karpathy", "coco_karpathy_test.json", "val2014/x.jpg"),
        ("coco_karpathy", "coco_test_karpathy.json", "val2014/x.jpg"),
        ("coco_val2017", "coco_test.json", "val2017/x.jpg"),
        ("flickr30k", "flickr30k_test_karpathy.txt", "x.jpg"),
        ("flickr30k", "flickr30k_test.json", "flickr30k_images/x.jpg"),
        ("flickr8k", "flickr8k_test_karpathy.txt", "Images/x.jpg"),
    ],
)
def test_usual_names_and_folders(tmp_path: Path, dataset: str, annotations: str, image: str) -> None:
    for name in ("x", "y"):
        solid(tmp_path / image.replace("x.jpg", f"{name}.jpg"), RED)
    listed = [image, image.replace("x.jpg", "y.jpg")] if annotations == "coco_karpathy_test.json" else ["x.jpg", "y.jpg"]
    if annotations.endswith(".txt"):
        (tmp_path / annotations).write_text("header\n" + "".join(f"{name},a caption\n" for name in listed))
    else:
        dump(tmp_path / annotations, [{"image": name, "caption": ["a caption"]} for name in listed])
    loaded = Retrieval(dataset=dataset).load(str(tmp_path), str(tmp_path / "cache"))
    assert loaded.cases.table.num_rows == 4
    assert [metric.name for metric in loaded.metrics][0] == f"retrieval/{dataset}/text_retrieval_recall@1"
    assert set(loaded.info.primary) <= {metric.name for metric in loaded.metrics}
    assert all(set(published.values) <= {metric.name for metric in loaded.metrics} for published in loaded.info.published)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "r.png"}', "unknown caption format"),
        ('{"image": "r.png", "captions": [1]}', "unknown caption format"),
        ('{"image": "r.png", "captions": []}', "has no captions"),
        ('{"image": "r.png", "captions": ["a"]}\n' * 2, "image 'r.png' stands twice"),
        ('{"image": "../r.png", "captions": ["a"]}', "leads out"),
        ('{"image": "r.png", "captions": ["a"]}\n{"image": "q.png", "captions": ["a"]}', "1 of 2 images are missing, the first is q.png"),
        ('{"image": "q.png", "captions": ["a"]}', "image q.png not found"),
        ("", "no images of split"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    solid(tmp_path / "r.png", RED)
    (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        Retrieval().load(str(tmp_path), str(tmp_path / "cache"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_layout_and_options(tmp_path: Path) -> None:
    message = "caption file of Flickr30k retrieval not found, looked for flickr30k_test_karpathy.txt, flickr30k_test.json"
    with pytest.raises(DataError, match=message):
        Retrieval(dataset="flickr30k").load(str(tmp_path), str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="option 'dataset'"):
        Retrieval(dataset="flickr30")
