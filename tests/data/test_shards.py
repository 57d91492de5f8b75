"""Packing: every source, both formats, read back by other libraries; damage is found; an interrupted build is repeated."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgray.data.importers import open_source
from fgray.data.index import image_key, open_images
from fgray.data.shards import build_shards, verify_shards
from fgray.errors import DataError

FORMATS = ["tar", "parquet"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Sixty encoded pictures of several kinds, and two broken files: key -> bytes."""
    rng = np.random.default_rng(1)
    found = {}
    for number in range(60):
        buffer = io.BytesIO()
        format = ("JPEG", "PNG", "WEBP")[number % 3]
        Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(buffer, format)
        found[f"class {number % 4}/v1.{number}.{format.lower()}"] = buffer.getvalue()
    found["class é/empty.jpg"] = b""
    found["top.png"] = b"no image at all"
    return found


@pytest.fixture
def folder(photos: dict[str, bytes], tmp_path: Path) -> Path:
    for path, data in photos.items():
        file = tmp_path / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "images" / "notes.txt").write_text("not an image file")
    (tmp_path / "images" / ".hidden.jpg").write_bytes(b"resource fork")
    return tmp_path / "images"


def expected(photos: dict[str, bytes]) -> dict[str, bytes]:
    return {path.rpartition(".")[0].replace("v1.", "v1%2E"): data for path, data in photos.items()}


def contents(root: Path | str) -> dict[str, bytes]:
    index = open_images(str(root))
    return dict(zip(index.keys.to_pylist(), index.read(index.table), strict=True))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_comes_back_byte_for_byte(folder: Path, photos: dict[str, bytes], tmp_path: Path, format: str) -> None:
    summary = build_shards(open_source(str(folder)), str(tmp_path / "out"), format, 60_000)
    assert summary.images == len(photos) and summary.shards > 2
    assert contents(tmp_path / "out") == expected(photos)
    assert verify_shards(str(tmp_path / "out")) == []
    manifest = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    for row in manifest:
        data = (tmp_path / "out" / row["shard"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).digest())
    index = pq.read_table(tmp_path / "out" / "index.parquet")
    assert index.num_rows == sum(row["rows"] for row in manifest) == len(photos)
    if format == "tar":  # the offsets, with nothing but open() and seek()
        for row in index.to_pylist():
            with (tmp_path / "out" / row["shard"]).open("rb") as file:
                file.seek(row["offset"])
                assert file.read(row["length"]) == expected(photos)[row["key"]]


@pytest.mark.parametrize("format", FORMATS)
def test_rows_in_any_order_with_repeats(folder: Path, photos: dict[str, bytes], tmp_path: Path, format: str) -> None:
    build_shards(open_source(str(folder)), str(tmp_path / "out"), format, 60_000)
    index = open_images(str(tmp_path / "out"))
    keys = random.Random(0).choices(index.keys.to_pylist(), k=150)
    assert index.read(index.locate(keys)) == [expected(photos)[key] for key in keys]
    assert index.read(index.locate([])) == []


def test_the_webdataset_library_reads_our_tars(folder: Path, photos: dict[str, bytes], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    build_shards(open_source(str(folder)), str(tmp_path / "out"), "tar", 60_000)
    tars = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    found = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        (image,) = (sample[name] for name in ("jpg", "png", "webp") if name in sample)
        found[sample["__key__"]] = image
        assert json.loads(sample["json"]) == {}
    assert found == expected(photos)


def test_a_tar_written_by_the_webdataset_library(photos: dict[str, bytes], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "theirs-0.tar")) as sink:
        sink.write({"__key__": "a/1", "jpg": photos["class 0/v1.0.jpeg"], "json": {"caption": "één"}, "cls": 7})
        sink.write({"__key__": "a/2", "png": photos["class 1/v1.1.png"], "txt": "two"})
    build_shards(open_source(str(tmp_path / "theirs-0.tar")), str(tmp_path / "out"))
    assert contents(tmp_path / "out") == {"a/1": photos["class 0/v1.0.jpeg"], "a/2": photos["class 1/v1.1.png"]}
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        members = {member.name: json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")}
    assert members == {"a/1.json": {"caption": "één", "cls": "7"}, "a/2.json": {"txt": "two"}}


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_packed_folders_are_packed_again(folder: Path, photos: dict[str, bytes], tmp_path: Path, first: str, second: str) -> None:
    build_shards(str(folder), str(tmp_path / "one"), first, 60_000)
    build_shards(str(tmp_path / "one"), str(tmp_path / "two"), second, 90_000)
    assert contents(tmp_path / "two") == expected(photos) and verify_shards(str(tmp_path / "two")) == []


def test_coco_json(data_root: Path, tmp_path: Path) -> None:
    root = data_root / "coco128"
    annotations = next(root.rglob("instances*.json"))
    images = next(path.parent for path in root.rglob("*.jpg"))
    build_shards(open_source(str(annotations), str(images)), str(tmp_path / "p"), "parquet")
    build_shards(open_source(str(annotations), str(images)), str(tmp_path / "t"), "tar")
    facts = json.loads(annotations.read_text())
    assert contents(tmp_path / "p") == contents(tmp_path / "t") == {path.stem: path.read_bytes() for path in images.glob("*.jpg")}
    table = pq.read_table(sorted((tmp_path / "p").glob("shard*.parquet")))
    assert table["width"].to_pylist() == [image["width"] for image in facts["images"]]
    assert sum(len(json.loads(entry)) for entry in table["annotations"].to_pylist()) == len(facts["annotations"])
    names = {category["id"]: category["name"] for category in facts["categories"]}
    for entry in json.loads(table["annotations"][0].as_py()):
        assert entry["category"] == names[entry["category_id"]]
    with tarfile.open(tmp_path / "t" / "shard-000000.tar") as tar:
        member = json.load(tar.extractfile(facts["images"][0]["file_name"].replace(".jpg", ".json")))
    assert member["image_id"] == facts["images"][0]["id"]


def test_parquet_columns_are_kept(photos: dict[str, bytes], tmp_path: Path) -> None:
    images = [photos["class 0/v1.0.jpeg"], photos["class 2/v1.2.webp"]]
    table = pa.table({"key": ["a", "b"], "image": images, "label": pa.array([3, 4], pa.int16()), "tags": [["x"], []]})
    pq.write_table(table, tmp_path / "theirs.parquet")
    build_shards(str(tmp_path / "theirs.parquet"), str(tmp_path / "out"), "parquet")
    assert pq.read_table(tmp_path / "out" / "shard-000000.parquet").select(table.column_names).equals(table)
    hugging_face = pa.table({"image": [{"bytes": data, "path": None} for data in images]})
    pq.write_table(hugging_face, tmp_path / "hf.parquet")
    build_shards(str(tmp_path / "hf.parquet"), str(tmp_path / "hf"), "tar")
    assert contents(tmp_path / "hf") == {"hf/00000000": images[0], "hf/00000001": images[1]}
    with tarfile.open(tmp_path / "hf" / "shard-000000.tar") as tar:
        assert [name for name in tar.getnames() if not name.endswith(".json")] == ["hf/00000000.jpg", "hf/00000001.webp"]


# --- damage -------------------------------------------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_is_found_and_named(folder: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    build_shards(str(folder), str(out), format, 60_000)
    index = open_images(str(out)).table.to_pylist()
    first = (out / f"shard-000000.{format}").read_bytes()
    position = index[3]["offset"] + 50 if format == "tar" else first.index((folder / "class 0" / "v1.12.jpeg").read_bytes()) + 50
    flip(out / f"shard-000000.{format}", position)
    (out / f"shard-000001.{format}").unlink()
    (out / f"shard-000002.{format}").write_bytes((out / f"shard-000002.{format}").read_bytes()[:5000])
    (out / "shard-000099.tar").write_bytes(b"")
    findings = verify_shards(str(out))
    text = "\n".join(findings)
    assert all("\n" not in finding for finding in findings)
    assert f"shard-000000.{format}: sha256 differs" in text
    assert sum("has other bytes" in finding and "shard-000000" in finding for finding in findings) == 1
    assert f"shard-000001.{format}: missing" in text
    assert f"shard-000002.{format}: 5000 bytes" in text
    assert "shard-000099.tar: not in manifest.parquet" in text
    damaged = next(finding.split("'")[1] for finding in findings if "has other bytes" in finding)
    broken = open_images(str(out))
    with pytest.raises(DataError, match=f"image '{damaged}' is not the one that was indexed .*fgray shards verify"):
        broken.read(broken.locate([damaged]))


def test_a_lying_index_is_found(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_shards(str(folder), str(out))
    index = pq.read_table(out / "index.parquet")
    rows = index.to_pylist()
    rows[0]["key"], rows[1]["key"] = rows[1]["key"], rows[0]["key"]  # swapped labels, right bytes
    rows[5]["key"] = rows[4]["key"]
    pq.write_table(pa.Table.from_pylist([*rows[:-1]], index.schema), out / "index.parquet")
    text = "\n".join(verify_shards(str(out)))
    assert f"'{rows[0]['key']}' is not where index.parquet says" in text
    assert f"key '{rows[4]['key']}' stands there 2 times" in text
    assert f"{len(rows) - 1} images in index.parquet, the manifest says {len(rows)}" in text
    with pytest.raises(DataError, match="duplicate keys"):
        open_images(str(out))


def test_an_unfinished_folder_is_not_called_whole(folder: Path, tmp_path: Path) -> None:
    build_shards(str(folder), str(tmp_path / "out"))
    (tmp_path / "out" / "manifest.parquet").unlink()
    with pytest.raises(DataError, match="its build was interrupted .*fgray shards build"):
        verify_shards(str(tmp_path / "out"))


BUILD = "import sys; from fgray.data.shards import build_shards; build_shards(sys.argv[1], sys.argv[2], sys.argv[3], 20_000)"


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_build_is_simply_run_again(folder: Path, tmp_path: Path, format: str) -> None:
    """Killed after some shards are there, with strays of another size around: the second run equals an undisturbed one."""
    build_shards(str(folder), str(tmp_path / "calm"), format, 20_000)
    out = tmp_path / "out"
    out.mkdir()
    (out / f"shard-009999.{format}").write_bytes(b"of an earlier try")
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(folder), str(out), format])
    while len(list(out.glob("shard-*"))) < 4 and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    build_again = not (out / "manifest.parquet").exists()
    assert build_again, "the build ended before it could be killed"
    build_shards(str(folder), str(out), format, 20_000)
    found = {name: data for name, data in files(out).items() if not name.startswith(".fgray-")}
    assert found == files(tmp_path / "calm")


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_refusals(folder: Path, photos: dict[str, bytes], tmp_path: Path) -> None:
    build_shards(str(folder), str(tmp_path / "out"))
    with pytest.raises(DataError, match="already packed"):
        build_shards(str(folder), str(tmp_path / "out"))
    with pytest.raises(DataError, match="no shards of format 'zip'"):
        build_shards(str(folder), str(tmp_path / "x"), "zip")  # type: ignore[arg-type]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no images here"):
        build_shards(str(tmp_path / "none"), str(tmp_path / "x"))
    shutil.copy(folder / "top.png", folder / "top.jpg")
    with pytest.raises(DataError, match=r"duplicate keys: 'top' is top\.jpg and top\.png"):
        build_shards(str(folder), str(tmp_path / "x"))
    with pytest.raises(DataError, match=r"duplicate keys: 'top' is top\.jpg and top\.png"):
        open_images(str(folder))
    assert len(open_images(str(folder), keys=["class 0/v1%2E0"]).keys) == 1  # the double is not wanted here


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "not COCO JSON"),
        ("a.json", b'{"images": []}', "the file lists no images"),
        ("a.json", b'{"images": [{"id": 1, "file_name": "x.jpg"}]}', "no image file 'x.jpg'"),
        ("a.tar", b"no tar", "not a whole tar file"),
        ("a.parquet", b"no parquet", "not a Parquet file"),
        ("b.tar", b"", "not a whole tar file|holds no images"),
    ],
)
def test_broken_sources(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        build_shards(str(tmp_path / name), str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_a_tar_cut_off_in_a_member_is_refused(folder: Path, tmp_path: Path) -> None:
    build_shards(str(folder), str(tmp_path / "one"))
    tar = tmp_path / "one" / "shard-000000.tar"
    index = open_images(str(tmp_path / "one")).table.to_pylist()
    (tmp_path / "cut.tar").write_bytes(tar.read_bytes()[: index[20]["offset"] + 100])
    with pytest.raises(DataError, match="not a whole tar file"):
        build_shards(str(tmp_path / "cut.tar"), str(tmp_path / "out"))


# --- plain folders ------------------------------------------------------------------------------------------------------


def test_a_plain_folder_is_hashed_once(folder: Path, photos: dict[str, bytes], tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    index = open_images(str(folder), cache)
    assert dict(zip(index.keys.to_pylist(), index.read(index.table), strict=True)) == expected(photos)
    kept = files(tmp_path / "cache")
    assert open_images(str(folder), cache).table.equals(index.table) and files(tmp_path / "cache") == kept
    (folder / "top.png").write_bytes(b"now another")
    assert open_images(str(folder), cache).locate(["top"])["sha256"][0].as_py() == hashlib.sha256(b"now another").digest()


def test_missing_images_are_named_with_a_guess(folder: Path) -> None:
    index = open_images(str(folder))
    for action in (lambda keys: index.locate(keys), lambda keys: open_images(str(folder), keys=keys)):
        with pytest.raises(DataError, match=r"no image 'class 1/v1%2E555' and 1 more \[.*\]: did you mean 'class 1/v1%2E5'\?"):
            action(["class 1/v1%2E555", "top", "xyz"])


def test_keys_of_paths() -> None:
    assert image_key("a.b/c.d.jpg") == "a.b/c%2Ed"
    assert image_key("x.JPEG") == "x" and image_key("deep/er/x") == "deep/er/x"
