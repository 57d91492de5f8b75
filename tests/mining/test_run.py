"""The mine job as a whole against a brute force that shares no code with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import fgray
from fgray.cli_output import report as show_report
from fgray.config import config_from_text
from fgray.data.negatives import read_negatives
from fgray.errors import ConfigError, DataError, RunError

RNG = np.random.default_rng(7)
IMAGES, TEXTS, DIM = 23, 41, 16


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, DIM))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def save_vectors(path: Path, keys: list[str], values: np.ndarray) -> str:
    np.save(path, values)
    path.with_suffix("").with_suffix(".keys.txt").write_text("\n".join(keys) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Pairs: image i has the captions i and i + 23; caption 40 describes the images 0 and 17."""
    images, texts = [f"im/{i:02d}" for i in range(IMAGES)], [f"caption {t:02d}" for t in range(TEXTS)]
    pairs = [(images[t % IMAGES], texts[t]) for t in range(TEXTS)] + [(images[0], texts[40])]
    table = pa.table({"image": [i for i, _ in pairs], "text": [t for _, t in pairs]})
    pq.write_table(table.take(RNG.permutation(len(pairs))), tmp_path / "pairs.parquet")
    order = RNG.permutation(IMAGES)  # rows of the files stand in any order
    return {
        "pairs": str(tmp_path / "pairs.parquet"),
        "image": save_vectors(tmp_path / "image.npy", [images[i] for i in order], unit(IMAGES, 1)[order]),
        "text": save_vectors(tmp_path / "text.npy", texts, unit(TEXTS, 2)),
    }


def job(files: dict[str, str], output: Path, **more) -> fgray.config.LoadedConfig:
    content = {
        "job": "mine",
        "name": "t",
        "model": {"kind": "precomputed", "name": "m", "image_embeddings": files["image"], "text_embeddings": files["text"]},
        "pairs": {"name": "file", "root": files["pairs"]},
        "search": {"k": 9, "dtype": "fp16"},
        "filters": ["same_image", {"name": "min_score", "value": -0.5}, {"name": "num_negatives", "value": 3}],
        "audit": None,
        "compute": {"runner": "serial"},
        "output": str(output),
        **more,
    }
    return config_from_text(json.dumps(content), "t.yaml")


def brute_force(direction: str) -> dict[tuple[str, str | None], list[tuple[str, float, float | None, int]]]:
    """Return (anchor, positive) -> [(negative, score, margin, rank)], by sorting Python lists."""
    kinds = {
        "image": (unit(IMAGES, 1), [f"im/{i:02d}" for i in range(IMAGES)]),
        "text": (unit(TEXTS, 2), [f"caption {t:02d}" for t in range(TEXTS)]),
    }
    pairs = {(f"im/{t % IMAGES:02d}", f"caption {t:02d}") for t in range(TEXTS)} | {("im/00", "caption 40")}
    of = {"image": {i: {i} for i in kinds["image"][1]}, "text": {}}
    for image, text in pairs:
        of["text"].setdefault(text, set()).add(image)
    one, other = direction.split("_to_")
    vectors = {kind: values.astype(np.float16).astype(np.float64) for kind, (values, _) in kinds.items()}
    rows = {}
    for a, anchor in enumerate(kinds[one][1]):
        scored = sorted(
            (-float(sum(x * y for x, y in zip(vectors[one][a], v, strict=True))), key)
            for v, key in zip(vectors[other], kinds[other][1], strict=True)
        )
        cosine = {key: -score for score, key in scored}
        found = [(key, -score, rank) for rank, (score, key) in enumerate(scored[:9], 1)]
        found = [item for item in found if not of[one][anchor] & of[other][item[0]] and item[1] >= -0.5][:3]
        crossing = [(i, t) for i, t in pairs if anchor == (i if one == "image" else t)] if one != other else [(None, None)]
        for image, text in crossing:
            positive = None if one == other else (text if one == "image" else image)
            rows[anchor, positive] = [
                (key, score, None if positive is None else cosine[positive] - score, rank) for key, score, rank in found
            ]
    return rows


DIRECTIONS = ["image_to_text", "text_to_image", "image_to_image", "text_to_text"]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_negative_is_the_one_that_brute_force_finds(direction: str, files: dict[str, str], tmp_path: Path) -> None:
    fgray.mine(job(files, tmp_path / "run", directions=[direction]))
    table, facts = read_negatives(str(tmp_path / "run"))
    expected = {key: value for key, value in brute_force(direction).items() if value}
    rows = table.to_pylist()
    assert {(row["anchor"], row["positive"]) for row in rows} == set(expected)
    for row in rows:
        wanted = expected[row["anchor"], row["positive"]]
        assert [(n["ref"], n["rank"]) for n in row["negatives"]] == [(ref, rank) for ref, _, _, rank in wanted]
        assert [n["score"] for n in row["negatives"]] == pytest.approx([score for _, score, _, _ in wanted], abs=1e-12)
        margins = [margin for _, _, margin, _ in wanted]
        assert [n["margin"] for n in row["negatives"]] == (margins if None in margins else pytest.approx(margins, abs=1e-12))
        assert all(n["reason"].startswith(f"rank {n['rank']} of 9") for n in row["negatives"])
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    counts = metrics["mining"][direction]
    assert counts["kept"] == sum(map(len, expected.values())) and counts["rows"] == len(brute_force(direction))
    assert counts["candidates"] == counts["kept"] + sum(counts["dropped"].values())
    assert facts["model"] == metrics["fingerprints"]["model"]


def test_the_same_bytes_on_ray_with_two_workers_and_after_a_resume(files: dict[str, str], tmp_path: Path) -> None:
    fgray.mine(job(files, tmp_path / "serial", directions=DIRECTIONS))
    fgray.mine(job(files, tmp_path / "ray", directions=DIRECTIONS, compute={"runner": "ray", "workers": 2}))
    names = ("negatives.parquet", "metrics.json")
    before = [(tmp_path / "serial" / name).read_bytes() for name in names]
    assert [(tmp_path / "ray" / name).read_bytes() for name in names] == before
    parts = sorted((tmp_path / "serial/store").rglob("part-*.parquet"))
    assert parts
    parts[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in parts[1:]}
    fgray.mine(job(files, tmp_path / "serial", directions=DIRECTIONS))
    assert [(tmp_path / "serial" / name).read_bytes() for name in names] == before
    assert {path: path.stat().st_mtime_ns for path in times} == times, "what was searched is not searched again"


def test_another_configuration_in_the_same_output_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    fgray.mine(job(files, tmp_path / "run"))
    with pytest.raises(RunError, match="a run of another configuration"):
        fgray.mine(job(files, tmp_path / "run", search={"k": 8}))


def test_candidates_from_another_set(files: dict[str, str], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"image": pa.array([None, "im/05"], pa.string()), "text": ["caption 11", "caption 28"]}), corpus)
    options = {"corpus": {"name": "file", "root": str(corpus)}, "directions": ["image_to_text"]}
    fgray.mine(job(files, tmp_path / "run", **options, filters=["same_image"]))
    rows = {row["anchor"]: {n["ref"] for n in row["negatives"]} for row in read_negatives(str(tmp_path / "run"))[0].to_pylist()}
    assert rows["im/00"] == {"caption 11", "caption 28"}
    assert rows["im/05"] == {"caption 11"}, "caption 28 describes it, says the corpus, and the pairs too"
    assert rows["im/11"] == {"caption 28"}


def photos(root: Path, count: int) -> None:
    root.mkdir()
    lines = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(root / f"{number}.png")
        lines.append({"image": f"{number}.png", "split": "test", "captions": [f"number {number}", f"a photo of {number} things"]})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def tiny(root: Path, output: Path, **more) -> fgray.config.LoadedConfig:
    content = {
        "job": "mine", "name": "t", "model": {"kind": "tiny"}, "data": {"root": str(root), "max_corrupt_fraction": 0.1},
        "pairs": {"name": "retrieval", "dataset": "captions"}, "filters": ["same_image", {"name": "num_negatives", "value": 2}],
        "search": {"k": 5}, "audit": {"anchors": 4}, "compute": {"runner": "serial"}, "output": str(output), **more,
    }  # fmt: skip
    return config_from_text(json.dumps(content), "t.yaml")


def test_images_are_embedded_once_and_damaged_ones_set_aside(tmp_path: Path) -> None:
    photos(tmp_path / "data", 12)
    (tmp_path / "data/3.png").write_bytes((tmp_path / "data/3.png").read_bytes()[:90])
    result = fgray.mine(tiny(tmp_path / "data", tmp_path / "run"))
    rows = read_negatives(result.uri)[0].to_pylist()
    seen = {row["anchor"] for row in rows} | {n["ref"] for row in rows for n in row["negatives"]}
    assert "4" in seen and "3" not in seen
    quarantined = pq.read_table(tmp_path / "run/quarantine.parquet").to_pylist()
    assert [(row["key"], row["stage"]) for row in quarantined] == [("3", "decode")]
    assert Path(result.report).exists() and "<img" in Path(result.report).read_text()
    with pytest.raises(RunError, match="1 of 36 items cannot be computed"):
        fgray.mine(tiny(tmp_path / "data", tmp_path / "strict", data={"root": str(tmp_path / "data")}))


def test_images_of_an_evaluation_set_are_refused(tmp_path: Path) -> None:
    photos(tmp_path / "data", 6)
    photos(tmp_path / "test", 3)
    named = [{"name": "retrieval", "dataset": "captions", "root": str(tmp_path / "test")}]
    with pytest.raises(DataError, match=r"3 of the images are in the evaluation set retrieval: '0' is '0' \(the same file\)"):
        fgray.mine(tiny(tmp_path / "data", tmp_path / "run", disjoint_from=named))
    assert not (tmp_path / "run/negatives.parquet").exists()


def test_what_an_approximate_search_misses_is_told(files: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    exact = fgray.mine(job(files, tmp_path / "exact"))
    assert exact.approximate == {} and "approximate" not in json.loads((tmp_path / "exact/metrics.json").read_text())
    recalls = {}
    for probes in (1, 6):
        search = {"k": 9, "index": "faiss", "options": {"lists": 6, "probes": probes}}
        result = fgray.mine(job(files, tmp_path / str(probes), search=search))
        found = json.loads((tmp_path / str(probes) / "metrics.json").read_text())["approximate"]
        assert result.approximate == found and set(found) == {"image_to_text", "text_to_image"}
        assert {one["k"] for one in found.values()} == {9}
        recalls[probes] = [one["recall"] for one in found.values()]
        assert f"{recalls[probes][0]:.1%} of image_to_text's exact best 9" in str(result.table().caption)
        assert "Approximate search." in Path(result.report).read_text()
    assert all(0 < recall < 1 for recall in recalls[1])
    assert recalls[6] == [1.0, 1.0], "every list was looked into"
    assert read_negatives(str(tmp_path / "6"))[0] == read_negatives(str(tmp_path / "exact"))[0]


def pairs_file(path: Path, images: list[str | None], texts: list[str | None]) -> dict[str, str]:
    pq.write_table(pa.table({"image": pa.array(images, pa.string()), "text": pa.array(texts, pa.string())}), path)
    return {"name": "file", "root": str(path)}


def test_texts_without_images_are_mined_and_never_for_themselves(tmp_path: Path) -> None:
    pairs = pairs_file(tmp_path / "p.parquet", [None] * 3, ["a bird", "a cat", "a dog"])
    result = fgray.mine(tiny(tmp_path, tmp_path / "run", pairs=pairs, directions=["text_to_text"], filters=["same_image"]))
    rows = {row["anchor"]: {n["ref"] for n in row["negatives"]} for row in read_negatives(result.uri)[0].to_pylist()}
    assert rows == {text: {"a bird", "a cat", "a dog"} - {text} for text in ("a bird", "a cat", "a dog")}
    assert result.mining["text_to_text"]["dropped"] == {"same_image": 3}


def test_only_what_a_direction_looks_at_is_embedded(tmp_path: Path) -> None:
    photos(tmp_path / "data", 4)
    (tmp_path / "data/3.png").write_bytes(b"no picture")
    job = tiny(tmp_path / "data", tmp_path / "run", directions=["text_to_text"], audit=None)
    rows = read_negatives(fgray.mine(job).uri)[0]
    assert rows.num_rows == 8, "the damaged image is not looked at"
    assert set(pq.read_table(tmp_path / "run/items.parquet")["kind"].to_pylist()) == {"embed_text"}
    pairs = pairs_file(tmp_path / "p.parquet", ["x", "y"], ["a cat", "a dog"])  # it is not said where the images lie
    fgray.mine(tiny(tmp_path, tmp_path / "texts", pairs=pairs, directions=["text_to_text"], audit=None, filters=["same_image"]))
    with pytest.raises(DataError, match="the pairs do not say where their images lie"):
        fgray.mine(tiny(tmp_path, tmp_path / "both", pairs=pairs, audit=None, filters=["same_image"]))


def test_a_damaged_image_does_not_take_a_text_of_its_name_along(tmp_path: Path) -> None:
    photos(tmp_path / "data", 12)
    (tmp_path / "data/3.png").write_bytes(b"no picture")
    names = [str(number) for number in range(12)]
    pairs = {**pairs_file(tmp_path / "p.parquet", names, ["3", *names[1:]]), "images": str(tmp_path / "data")}
    rows = read_negatives(fgray.mine(tiny(tmp_path / "data", tmp_path / "run", pairs=pairs, audit=None)).uri)[0].to_pylist()
    assert ("0", "3") in {(row["anchor"], row["positive"]) for row in rows}


@pytest.mark.parametrize(
    ("images", "texts", "direction", "message"),
    [
        ([None, None], ["a cat", "a dog"], "image_to_text", "the pairs have no image for image_to_text"),
        ([None, None], ["a cat", "a dog"], "image_to_image", "the pairs have no image for image_to_image"),
        (["x", "y"], [None, None], "text_to_image", "the pairs have no text for text_to_image"),
        (["im/00", None], [None, "caption 00"], "image_to_text", "no image of the pairs has a caption"),
    ],
)
def test_a_direction_without_anything_to_search_is_refused(images, texts, direction, message, files, tmp_path: Path) -> None:
    pairs = pairs_file(tmp_path / "p.parquet", images, texts)
    with pytest.raises(DataError, match=message):
        fgray.mine(job(files, tmp_path / "run", pairs=pairs, directions=[direction]))


def test_the_report_of_a_run_is_written_again(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(fgray.mine(job(files, tmp_path / "run")).report)
    before = page.read_bytes()
    page.unlink()
    show_report(str(tmp_path / "run"), fgray.report(str(tmp_path / "run")))
    assert page.read_bytes() == before
    assert capsys.readouterr().out == f"report: {page}\n"


@pytest.mark.parametrize(
    ("name", "message"), [("same_label", "no labels for filter same_label"), ("near_duplicate_images", "no images to compare")]
)
def test_a_filter_that_lacks_what_it_looks_at_is_refused_before_anything_is_searched(name, message, files, tmp_path: Path) -> None:
    loaded = job(files, tmp_path / "run", filters=["same_image", name])
    with pytest.raises(DataError, match=message):
        fgray.plan(loaded)
    with pytest.raises(DataError, match=message):
        fgray.mine(loaded)
    assert not (tmp_path / "run/store").exists() and not (tmp_path / "run/vectors").exists()


def test_what_cannot_be_mined_is_said_in_one_line(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no filter is called 'same_imgae'.*did you mean 'same_image'"):
        fgray.mine(job(files, tmp_path / "a", filters=["same_imgae"]))
    with pytest.raises(ConfigError, match="own positives would be mined"):
        fgray.mine(job(files, tmp_path / "a", filters=["same_caption"]))
    with pytest.raises(ConfigError, match="own positives would be mined"):
        fgray.mine(job(files, tmp_path / "a", filters=["same_caption"], corpus={"name": "file", "root": files["pairs"]}))
    with pytest.raises(ConfigError, match=r"direction 'text_to_text' stands twice \[directions.1\]"):
        fgray.mine(job(files, tmp_path / "a", directions=["text_to_text", "text_to_text"]))
    with pytest.raises(ConfigError, match=r"the exact search has no option 'probes' \[search.options\]"):
        fgray.mine(job(files, tmp_path / "a", search={"k": 9, "options": {"probes": 2}}))
    with pytest.raises(ConfigError, match="audit: it embeds copies"):
        job(files, tmp_path / "b", audit={"anchors": 3})
    save_vectors(Path(files["image"]), [f"im/{i:02d}" for i in range(5)], unit(5, 1))
    with pytest.raises(DataError, match="there is no image embedding of 'im/05'"):
        fgray.mine(job(files, tmp_path / "c"))


def test_a_chain_that_leaves_nothing_is_said(files: dict[str, str], tmp_path: Path) -> None:
    filters = ["same_image", {"name": "min_score", "value": 1.0}]
    result = fgray.mine(job(files, tmp_path / "run", filters=filters))
    assert "nothing is left of image_to_text: loosen the filter that drops most" in str(result.table().caption)
    assert result.mining["image_to_text"]["kept"] == 0
