"""What lies on this machine's disk is found in a configuration, uploaded or named absolutely, or refused."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from fgray.config import LoadedConfig, config_from_text
from fgray.config.source import to_yaml
from fgray.errors import ConfigError
from fgray.launch.remote.locations import relocate

EVERYWHERE = [Path("/")]


def loaded(content: dict[str, Any]) -> LoadedConfig:
    base: dict[str, Any] = {"job": "eval", "name": "n", "model": {"kind": "tiny"}, "benchmarks": ["spec"], "output": "s3://b/out"}
    return config_from_text(yaml.safe_dump({**base, **content}), "job.yaml")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_on_a_shared_disk_paths_become_absolute_and_nothing_travels(here: Path) -> None:
    write(here / "m.pt")
    model = {"kind": "open_clip", "arch": "ViT-B-32", "weights": "m.pt", "activation": "gelu"}
    moved = relocate(loaded({"data": {"root": "data/spec"}, "model": model, "output": "runs/x", "store": "file:///stores/a"}), EVERYWHERE)
    assert moved.files == {}
    assert moved.values["data"]["root"] == f"{here}/data/spec"
    assert moved.values["model"] == {**model, "weights": f"{here}/m.pt"}
    assert moved.values["store"] == moved.store == "/stores/a"
    assert moved.values["output"] == moved.output == f"{here}/runs/x"


def test_small_folders_travel_without_what_is_hidden(here: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", ".git/config", "sub/.env", "__pycache__/c.pyc"):
        write(here / "data" / name)
    moved = relocate(loaded({"data": {"root": "data"}}), [])
    assert moved.values["data"]["root"] == "./files/data"
    assert set(map(str, moved.files)) == {"files/data/a.jpg", "files/data/sub/b.jpg"}
    assert moved.files[PurePosixPath("files/data/sub/b.jpg")] == here / "data/sub/b.jpg"
    assert set(moved.owners.values()) == {"data.root"}


def test_addresses_and_published_names_stay(here: Path) -> None:
    model = {"kind": "open_clip", "arch": "ViT-B-32-quickgelu", "weights": "openai"}
    content = {"data": {"root": "s3://bucket/spec"}, "model": model, "cluster": "cluster/x.yaml"}
    moved = relocate(loaded(content), [])
    assert moved.files == {}
    assert moved.values["model"] == model and moved.values["data"] == {"root": "s3://bucket/spec"}
    assert "cluster" not in moved.values


def test_a_folder_in_place_of_a_hub_name_is_a_place(here: Path) -> None:
    write(here / "org/model/config.json")
    assert relocate(loaded({"model": {"kind": "hugging_face", "path": "org/model"}}), []).values["model"]["path"] == "./files/model"
    assert relocate(loaded({"model": {"kind": "hugging_face", "path": "org/other"}}), []).values["model"]["path"] == "org/other"


@pytest.mark.parametrize(("key", "value"), [("output", "runs/x"), ("store", "file:///tmp/store"), ("output", "/data/runs")])
def test_results_on_this_disk_are_refused_with_the_remedy(here: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is on this machine's disk.*set {key}: s3://BUCKET/.*shared_folders"):
        relocate(loaded({key: value}), [])


def test_a_folder_that_all_nodes_mount_holds_results(here: Path) -> None:
    moved = relocate(loaded({"output": "/mnt/efs/runs/x"}), [Path("/mnt/efs")])
    assert (moved.output, moved.store) == ("/mnt/efs/runs/x", "/mnt/efs/runs/x/store")
    with pytest.raises(ConfigError, match="output"):
        relocate(loaded({"output": "/mnt/efs-other/x"}), [Path("/mnt/efs")])


def test_what_is_not_there_cannot_travel(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmarks\.0\.root is not there .*nowhere"):
        relocate(loaded({"benchmarks": [{"name": "spec", "root": "nowhere"}]}), [])
    with pytest.raises(ConfigError, match=r"model\.weights is not there"):
        relocate(loaded({"model": {"kind": "open_clip", "arch": "ViT-B-32", "weights": "gone.pt", "activation": "gelu"}}), [])


def test_images_beside_the_root_travel_and_those_below_it_travel_with_it(here: Path) -> None:
    write(here / "ann/positive.json")
    write(here / "ann/val2017/1.jpg")
    write(here / "coco/2.jpg")
    below = relocate(loaded({"benchmarks": [{"name": "sugarcrepe", "root": "ann", "images": "val2017"}]}), [])
    assert below.values["benchmarks"][0] == {"name": "sugarcrepe", "root": "./files/ann", "images": "val2017"}
    beside = relocate(loaded({"benchmarks": [{"name": "sugarcrepe", "images": "../coco"}], "data": {"root": "ann"}}), [])
    assert beside.values["benchmarks"][0]["images"] == "./files/coco" and beside.values["data"]["root"] == "./files/ann"
    assert PurePosixPath("files/coco/2.jpg") in beside.files
    remote = relocate(loaded({"benchmarks": [{"name": "sugarcrepe", "root": "s3://b/ann", "images": "val2017"}]}), [])
    assert remote.files == {} and remote.values["benchmarks"][0]["images"] == "val2017"


def test_two_folders_of_one_name_keep_apart_and_one_folder_travels_once(here: Path) -> None:
    for name in ("one/data/a.jpg", "two/data/b.jpg"):
        write(here / name)
    benchmarks = [{"name": "spec", "root": root} for root in ("one/data", "two/data", "./one/data")]
    moved = relocate(loaded({"benchmarks": benchmarks}), [])
    assert [benchmark["root"] for benchmark in moved.values["benchmarks"]] == ["./files/data", "./files/data-2", "./files/data"]
    assert set(map(str, moved.files)) == {"files/data/a.jpg", "files/data-2/b.jpg"}


def test_of_a_run_folder_only_what_is_read_travels(here: Path) -> None:
    for name in ("run/model/card.json", "run/checkpoints/1/big.bin", "mined/negatives.parquet", "mined/store/part"):
        write(here / name)
    assert set(map(str, relocate(loaded({"model": {"kind": "trained", "path": "run"}}), []).files)) == {"files/run/model/card.json"}
    job = {"job": "train_clip", "sources": [{"pairs": "drawn", "negatives": ["mined"]}], "steps": 1}
    content = {"name": "n", "output": "s3://b/o", "model": {"kind": "tiny"}, **job}
    moved = relocate(config_from_text(yaml.safe_dump(content), "t.yaml"), [])
    assert set(map(str, moved.files)) == {"files/mined/negatives.parquet"}
    assert moved.values["sources"][0]["negatives"] == ["./files/mined"]


def test_embeddings_travel_with_their_row_names_and_options_only_where_they_are_files(here: Path) -> None:
    for name in ("i.npy", "i.keys.txt", "t.npy", "t.keys.txt", "w.bin", "enc.py"):
        write(here / name, "")
    model = {"kind": "precomputed", "name": "m", "image_embeddings": "i.npy", "text_embeddings": "t.npy"}
    names = {"files/i.npy", "files/i.keys.txt", "files/t.npy", "files/t.keys.txt"}
    assert set(map(str, relocate(loaded({"model": model}), []).files)) == names
    python = {"kind": "python", "path": "plugged", "options": {"weights": "w.bin", "prompt": "/a photo", "n": 2}}
    moved = relocate(loaded({"model": python}), [])
    assert moved.values["model"]["options"] == {"weights": "./files/w.bin", "prompt": "/a photo", "n": 2}


def test_one_entry_of_a_file_of_names_keeps_its_key(here: Path) -> None:
    write(here / "names.json")
    benchmark = {"name": "zero_shot", "dataset": "d", "root": "s3://b/d", "classes": f"{here}/names.json#birds"}
    moved = relocate(loaded({"benchmarks": [benchmark]}), [])
    assert moved.values["benchmarks"][0]["classes"] == "./files/names.json#birds" and len(moved.files) == 1


def test_the_models_of_filters_and_the_images_of_pairs_travel(here: Path) -> None:
    for name in ("second.pt", "pairs.parquet", "pics/1.jpg"):
        write(here / name)
    second = {"kind": "open_clip", "arch": "ViT-B-32", "weights": "second.pt", "activation": "gelu"}
    content = {
        "job": "mine", "name": "n", "model": {"kind": "tiny"}, "output": "s3://b/o", "audit": None,
        "pairs": {"name": "file", "root": "pairs.parquet", "images": "pics"},
        "filters": ["same_image", {"name": "second_model", "model": second}],
    }  # fmt: skip
    moved = relocate(config_from_text(yaml.safe_dump(content), "m.yaml"), [])
    assert moved.values["pairs"] == {"name": "file", "root": "./files/pairs.parquet", "images": "./files/pics"}
    assert moved.values["filters"][1]["model"]["weights"] == "./files/second.pt"


def test_variables_stay_unresolved_and_text_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "7")
    text = 'job: eval\nname: "${WHO}"\nmodel: {kind: tiny}\nbenchmarks: [spec]\nlimit: ${WHO}\noutput: s3://${BUCKET:b}/o\n'
    config = config_from_text(text, "job.yaml", ["benchmarks.0.root=s3://b/spec"])
    written = to_yaml(relocate(config, []).values)
    assert "${WHO}" in written and "${BUCKET:b}" in written
    again = config_from_text(written, "config.yaml")
    assert again.job == config.job and again.job.name == "7"
    assert again.source == config.source


def test_options_of_an_own_encoder_travel_however_deep(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(here))
    write(here / "own_opt.py", "class E: ...")
    for name in ("w.bin", "ckpt/a.bin", "ckpt/b.bin", "plain/c.bin"):
        write(here / name)
    options = {"deep": {"w": ["w.bin", 3]}, "folder": "./ckpt", "text": "plain", "other": "/no/such"}
    moved = relocate(loaded({"model": {"kind": "python", "path": "own_opt:E", "options": options}}), [])
    assert moved.values["model"]["options"] == {
        "deep": {"w": ["./files/w.bin", 3]}, "folder": "./files/ckpt", "text": "plain", "other": "/no/such",
    }  # fmt: skip
    assert set(map(str, moved.files)) == {"own_opt.py", "files/w.bin", "files/ckpt/a.bin", "files/ckpt/b.bin"}
    with pytest.raises(ConfigError, match=r"model\.options\.w is not there"):
        relocate(loaded({"model": {"kind": "python", "path": "own_opt:E", "options": {"w": "file:///no/such"}}}), [])


def test_weight_files_of_a_class_do_not_travel_and_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(here))
    write(here / "own_weights.py", "class E:\n    weight_files = ('/mnt/efs/w.pt',)\nclass F:\n    weight_files = ('w.pt',)\n")
    model = {"kind": "python", "path": "own_weights:E"}
    assert set(map(str, relocate(loaded({"model": model}), [Path("/mnt/efs")]).files)) == {"own_weights.py"}
    for path, shared in (("own_weights:E", []), ("own_weights:F", EVERYWHERE)):
        with pytest.raises(ConfigError, match=r"weight_files of own_weights:. names .*name the file in options"):
            relocate(loaded({"model": {"kind": "python", "path": path}}), shared)


def test_credentials_in_an_address_are_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"credentials in it.*\[output\]") as error:
        relocate(loaded({"output": "s3://AKIA:sEcReT@b/o"}), [])
    assert "sEcReT" not in str(error.value)
