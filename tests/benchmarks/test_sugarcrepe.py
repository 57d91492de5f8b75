"""SugarCrepe: hand-counted cases under every tie policy, the official files, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fgray.benchmarks.sugarcrepe import CATEGORIES, SugarCrepe
from fgray.errors import ConfigError, DataError
from fgray.metrics.spec import Macro, Metric, Pooled
from tests.benchmarks.layouts import BLUE, COLOUR_MODEL, PURPLE, RED, dump, noise, run, solid

ITEMS = {
    "0": {"filename": "1.png", "caption": "red", "negative_caption": "blue"},  # right
    "3": {"filename": "2.png", "caption": "red", "negative_caption": "blue"},  # wrong
    "7": {"filename": "3.png", "caption": "red", "negative_caption": "blue"},  # a tie
    "12": {"filename": "1.png", "caption": "red blue", "negative_caption": "red"},  # wrong
}


def write_colours(root: Path, name: str = "swap_obj.json") -> None:
    for number, colour in enumerate((RED, BLUE, PURPLE), start=1):
        solid(root / f"val2017/{number}.png", colour)
    dump(root / name, ITEMS)


@pytest.mark.parametrize(("ties", "correct"), [(None, 1), ("wrong", 1), ("first", 2), ("expected", 1.5)])
def test_hand_counted(tmp_path: Path, ties: str | None, correct: float) -> None:
    write_colours(tmp_path / "sc", "data/swap_obj.json")
    options = {"categories": ["swap_obj"], **({} if ties is None else {"ties": ties})}
    result, samples = run(tmp_path / "run", [{"name": "sugarcrepe", "root": str(tmp_path / "sc"), **options}], COLOUR_MODEL)
    entry = result.metrics["sugarcrepe/swap_obj/accuracy"]
    assert (entry["correct"], entry["count"]) == (correct, 4)
    assert set(result.metrics) == {"sugarcrepe/swap_obj/accuracy"}, "a group needs all its categories"
    assert samples["swap_obj/0007"]["tied"] == 1
    assert samples["swap_obj/0000"]["cluster_id"] == samples["swap_obj/0012"]["cluster_id"] == "1"


def test_groups_pool_and_macro_averages(tmp_path: Path) -> None:
    """Micro averages weigh categories by their items, the macro average does not."""
    for number, colour in enumerate((RED, BLUE), start=1):
        solid(tmp_path / f"sc/{number}.png", colour)
    rights = {"replace_obj": (1, 1), "replace_att": (0, 2), "replace_rel": (3, 3), "swap_obj": (1, 2), "swap_att": (0, 1)}
    rights |= {"add_obj": (2, 5), "add_att": (1, 1)}
    for category, (right, count) in rights.items():
        items = [{"filename": f"{1 if n < right else 2}.png", "caption": "red", "negative_caption": "blue"} for n in range(count)]
        dump(tmp_path / f"sc/{category}.json", {str(n): item for n, item in enumerate(items)})
    result, _ = run(tmp_path / "run", [{"name": "sugarcrepe", "root": str(tmp_path / "sc")}], COLOUR_MODEL)
    value = {name.split("/")[1]: entry["value"] for name, entry in result.metrics.items()}
    assert value["replace"] == pytest.approx(4 / 6)
    assert value["swap"] == pytest.approx(1 / 3)
    assert value["add"] == pytest.approx(3 / 6)
    assert value["all"] == pytest.approx(8 / 15)
    assert value["macro"] == pytest.approx((1 + 0 + 1 + 1 / 2 + 0 + 2 / 5 + 1) / 7)


def test_the_official_files(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "annotations/sugarcrepe"
    files = {item["filename"] for path in source.glob("*.json") for item in json.loads(path.read_text()).values()}
    assert len(files) == 1560
    for number, name in enumerate(sorted(files)):
        (tmp_path / "coco").mkdir(exist_ok=True)
        (tmp_path / "coco" / name).write_bytes(number.to_bytes(4, "big"))  # never decoded here
    loaded = SugarCrepe(images=str(tmp_path / "coco")).load(str(source), str(tmp_path / "cache"))
    assert loaded.cases.table.num_rows == 7511
    counts: dict[str, int] = {}
    for subset in loaded.cases.table["subset"].to_pylist():
        counts[subset] = counts.get(subset, 0) + 1
    assert counts == {
        "add_obj": 2062,
        "add_att": 692,
        "replace_obj": 1652,
        "replace_att": 788,
        "replace_rel": 1406,
        "swap_obj": 245,
        "swap_att": 666,
    }
    assert loaded.official
    ids = set(loaded.cases.table["case_id"].to_pylist())
    assert "swap_obj/0107" in ids and "swap_obj/0108" not in ids and "swap_obj/0245" in ids
    assert len(set(loaded.cases.table["cluster_id"].to_pylist())) == 1560
    kinds = [type(metric) for metric in loaded.metrics]
    assert (kinds.count(Metric), kinds.count(Pooled), kinds.count(Macro)) == (7, 4, 1)

    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    text = (changed / "swap_att.json").read_text()
    (changed / "swap_att.json").chmod(0o644)
    (changed / "swap_att.json").write_text(text.replace("towels", "towel", 1))
    other = SugarCrepe(images=str(tmp_path / "coco")).load(str(changed), str(tmp_path / "cache"))
    assert other.cases.table.num_rows == 7511 and not other.official, "the counts are right, a hash is not"


def test_published_numbers_are_shares_of_the_official_counts() -> None:
    """A printed accuracy must be a whole number of right items: 61.22 % of 245 is 150 (facts of the replication)."""
    counts = {name.partition("/")[0]: count for name, count in SugarCrepe.info.official_counts.items()}
    assert sum(counts.values()) == 7511
    for published in SugarCrepe.info.published:
        values = {name.split("/")[1]: value for name, value in published.values.items()}
        for category in CATEGORIES:
            right = round(values[category] * counts[category])
            assert right / counts[category] == pytest.approx(values[category], abs=5.1e-5), (published.model, category)
        groups = {"replace": CATEGORIES[:3], "swap": CATEGORIES[3:5], "add": CATEGORIES[5:], "all": CATEGORIES}
        for group, members in groups.items():
            if group in values:
                right = sum(round(values[category] * counts[category]) for category in members)
                assert right / sum(counts[category] for category in members) == pytest.approx(values[group], abs=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected {number:"),
        ("{}", "at least one entry"),
        ('{"0": {"filename": "1.png", "caption": "a"}}', "expected the texts filename, caption, negative_caption"),
        ('{"0": {"filename": "../1.png", "caption": "a", "negative_caption": "b"}}', "not a plain file name"),
        ('{"0": {"filename": "9.png", "caption": "a", "negative_caption": "b"}}', "image 9.png not found, looked in images, val2017"),
        ('{"0": 1, "0": 2}', "duplicate key '0'"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    write_colours(tmp_path)
    (tmp_path / "swap_obj.json").write_text(text)
    with pytest.raises(DataError) as caught:
        SugarCrepe(categories=["swap_obj"]).load(str(tmp_path), str(tmp_path / "cache"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SugarCrepe's replace_obj.json not found, looked for data/replace_obj.json, replace_obj.json"):
        SugarCrepe().load(str(tmp_path), str(tmp_path / "cache"))
    write_colours(tmp_path)
    (tmp_path / "val2017/3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images are missing, the first is 3.png .*set images: FOLDER"):
        SugarCrepe(categories=["swap_obj"]).load(str(tmp_path), str(tmp_path / "cache"))


def test_images_elsewhere_and_packed(tmp_path: Path) -> None:
    from fgray.data.importers import open_source
    from fgray.data.shards import build_shards

    write_colours(tmp_path / "sc")
    (tmp_path / "sc/val2017").rename(tmp_path / "pictures")
    noise(tmp_path / "pictures/other.png", 1)
    plain = SugarCrepe(categories=["swap_obj"], images="../pictures").load(str(tmp_path / "sc"), str(tmp_path / "cache"))
    build_shards(open_source(str(tmp_path / "pictures")), str(tmp_path / "shards"))
    packed = SugarCrepe(categories=["swap_obj"], images=str(tmp_path / "shards")).load(str(tmp_path / "sc"), str(tmp_path / "cache"))
    assert plain.cases.table.equals(packed.cases.table)
    keys = plain.cases.references("image")
    assert plain.images.read(plain.images.locate(keys)) == packed.images.read(packed.images.locate(keys))


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="did you mean 'swap_obj'"):
        SugarCrepe(categories=["swap_ob"])
    with pytest.raises(ConfigError, match="option 'ties'"):
        SugarCrepe(ties="half")
