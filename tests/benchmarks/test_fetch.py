"""Downloads against a real HTTP server on loopback: resume, checksums, unsafe archives, the hub's protocol."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fgray.benchmarks import download as downloads
from fgray.benchmarks.download import download, unzip
from fgray.benchmarks.fetch import REMOTES, Remote, fetch_benchmark
from fgray.errors import ConfigError, DataError, StorageError


class Server:
    """Serves bytes by path with ETags and ranges; it can break off after some bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.break_after: dict[str, list[int]] = {}  # path -> bytes to send before breaking off, one entry per request
        self.requests: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                requested = self.headers.get("Range")
                outer.requests.append((self.command, self.path, requested))
                data = outer.files.get(self.path)
                if data is None:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                etag = outer.etags.get(self.path, '"' + hashlib.sha256(data).hexdigest() + '"')
                condition = self.headers.get("If-Range")
                start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and condition in (None, etag) else 0
                if start and start >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - start))
                self.send_header("ETag", etag)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("X-Repo-Commit", "c" * 40)
                self.end_headers()
                if body:
                    breaks = outer.break_after.get(self.path)
                    if breaks:
                        self.wfile.write(data[start : start + breaks.pop(0)])
                        self.wfile.flush()
                        self.close_connection = True
                    else:
                        self.wfile.write(data[start:])

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture()
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


PAYLOAD = bytes(range(256)) * 4000


def test_a_broken_download_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["/big.bin"] = PAYLOAD
    server.break_after["/big.bin"] = [300_000, 200_000]
    lines: list[str] = []
    found = download(f"{server.url}/big.bin", tmp_path / "big.bin", report=lines.append, pause_s=0.01)
    assert found.read_bytes() == PAYLOAD
    ranges = [requested for _, _, requested in server.requests]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert len(lines) == 2 and "300000 of 1024000 bytes" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["big.bin"]


def test_a_later_call_continues_an_earlier_one(server: Server, tmp_path: Path) -> None:
    server.files["/big.bin"] = PAYLOAD
    server.break_after["/big.bin"] = [1000] * 5
    with pytest.raises(StorageError, match="it resumes"):
        download(f"{server.url}/big.bin", tmp_path / "big.bin", pause_s=0.001)
    assert not (tmp_path / "big.bin").exists()
    assert download(f"{server.url}/big.bin", tmp_path / "big.bin").read_bytes() == PAYLOAD
    assert server.requests[-1][2] == "bytes=5000-"


def test_a_file_that_changed_in_between_is_started_over(server: Server, tmp_path: Path) -> None:
    server.files["/f"] = PAYLOAD
    server.break_after["/f"] = [1000] * 5
    with pytest.raises(StorageError):
        download(f"{server.url}/f", tmp_path / "f", pause_s=0.001)
    server.files["/f"] = PAYLOAD[::-1]
    assert download(f"{server.url}/f", tmp_path / "f").read_bytes() == PAYLOAD[::-1]


def test_missing_file_and_unreachable_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="answers 404"):
        download(f"{server.url}/none", tmp_path / "f")
    assert len(server.requests) == 1, "a 404 is not retried"
    with pytest.raises(StorageError, match="cannot download"):
        download("http://127.0.0.1:9/f", tmp_path / "f", pause_s=0.001)


def test_fetch_checks_the_checksum_and_forgets_a_wrong_file(server: Server, tmp_path: Path) -> None:
    server.files["/a/x.json"] = b"{}"
    good = Remote("data/x.json", "https://example.org/a/x.json", checksum="sha256:" + hashlib.sha256(b"{}").hexdigest())
    bad = Remote("data/x.json", "https://example.org/a/x.json", checksum="sha256:" + "0" * 64)
    with pytest.raises(DataError, match="sha256 is .*, not 0000") as caught:
        fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=(bad,))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()
    receipts = fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=(good,))
    assert (tmp_path / "data/x.json").read_bytes() == b"{}"
    assert receipts[0]["checked"] == "sha256"
    asked = len(server.requests)
    assert fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=(good,)) == receipts
    assert len(server.requests) == asked, "what is there is not fetched again"


def test_fetch_says_when_only_the_size_could_be_checked(server: Server, tmp_path: Path) -> None:
    server.files["/x.bin"] = b"abc"
    receipts = fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=(Remote("x.bin", "https://h/x.bin", size=3),))
    assert receipts[0]["checked"] == "size only (upstream gives no checksum)"
    with pytest.raises(DataError, match="3 bytes instead of 4"):
        fetch_benchmark("test", str(tmp_path / "b"), base_url=server.url, remotes=(Remote("x.bin", "https://h/x.bin", size=4),))


def test_fetch_from_a_hub_verifies_the_stated_digest_and_unpacks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    archive = zipped({"existence/image2text.json": b"[]", "existence/0.png": b"png"})
    path = "/datasets/wjpoom/SPEC/resolve/main/data.zip"
    server.files[path] = archive
    remotes = (Remote("data.zip", repo="wjpoom/SPEC", size=len(archive)),)
    receipts = fetch_benchmark("spec", str(tmp_path / "good"), remotes=remotes)
    assert receipts[0]["checked"] == "sha256 stated by the hub"
    assert receipts[0]["sha256"] == hashlib.sha256(archive).hexdigest()
    assert (tmp_path / "good/existence/0.png").read_bytes() == b"png"
    assert sorted(item.name for item in (tmp_path / "good").iterdir()) == ["existence", "fetched.json"]
    server.etags[path] = '"' + "1" * 64 + '"'
    with pytest.raises(DataError, match="sha256 is"):
        fetch_benchmark("spec", str(tmp_path / "bad"), remotes=remotes)


def test_hub_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="run the same command again") as caught:
        fetch_benchmark("spec", str(tmp_path), base_url="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_unzip_refuses_entries_that_lead_out(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"fine.txt": b"x", name: b"evil"}))
    with pytest.raises(DataError, match="leads out"):
        unzip(archive, tmp_path / "inner" / "out")
    assert list((tmp_path / "inner").rglob("*.txt")) == []


def test_unzip_refuses_links_and_damage(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as content:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        content.writestr(link, "/etc")
    with pytest.raises(DataError, match="is a link"):
        unzip(archive, tmp_path / "out")
    data = bytearray(zipped({"x.txt": b"hello hello hello"}))
    data[data.index(b"hello") + 2] ^= 1
    archive.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged zip"):
        unzip(archive, tmp_path / "out")
    archive.write_bytes(b"not a zip")
    with pytest.raises(DataError, match="damaged zip"):
        unzip(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_unzip_keeps_other_files(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/mine.txt").write_text("mine")
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"val/new.txt": b"new"}))
    assert unzip(archive, tmp_path) == ["val/new.txt"]
    assert (tmp_path / "val/mine.txt").read_text() == "mine"
    assert (tmp_path / "val/new.txt").read_text() == "new"


def test_official_files_are_described_honestly() -> None:
    checksums = [remote.checksum for remotes in REMOTES.values() for remote in remotes if remote.checksum]
    assert all(len(text.partition(":")[2]) == {"sha256": 64, "md5": 32}[text.partition(":")[0]] for text in checksums)
    assert REMOTES["spec"][0].size == 1_555_390_680 and REMOTES["spec"][0].checksum is None
    assert len(REMOTES["sugarcrepe"]) == 8


def test_pinned_checksums_are_those_of_the_official_files(data_root: Path) -> None:
    for folder, name in (("sugarcrepe", "sugarcrepe"), ("aro", "retrieval/coco_karpathy")):
        for remote in REMOTES[name]:
            if remote.path.endswith(".json"):
                data = (data_root / "annotations" / folder / Path(remote.path).name).read_bytes()
                assert remote.checksum == "sha256:" + hashlib.sha256(data).hexdigest()
                assert remote.size in (None, len(data))


def test_unknown_names_and_remote_destinations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'sugarcrepe'"):
        fetch_benchmark("sugarcrep", str(tmp_path))
    with pytest.raises(ConfigError, match="fgray import"):
        fetch_benchmark("spec", "s3://bucket/spec")


def test_an_interrupted_fetch_keeps_what_is_done(server: Server, tmp_path: Path) -> None:
    server.files["/one.json"] = b"1"
    remotes = (Remote("one.json", "https://h/one.json"), Remote("two.json", "https://h/two.json"))
    with pytest.raises(StorageError):
        fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=remotes)
    assert [entry["path"] for entry in json.loads((tmp_path / "fetched.json").read_text())] == ["one.json"]
    server.files["/two.json"] = b"2"
    assert len(fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=remotes)) == 2
    assert [path for _, path, _ in server.requests].count("/one.json") == 1


def test_a_long_download_says_how_far_it_is(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_LINE_S", 0.0)
    server.files["/big.bin"] = PAYLOAD * 3
    lines: list[str] = []
    download(f"{server.url}/big.bin", tmp_path / "big.bin", report=lines.append)
    assert lines[0] == "big.bin: 1 of 3 MB (34%)"
    assert lines[-1] == "big.bin: 3 of 3 MB (100%)"


def test_a_deleted_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files["/one.json"] = b"1"
    remotes = (Remote("one.json", "https://h/one.json"),)
    fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=remotes)
    (tmp_path / "one.json").unlink()
    fetch_benchmark("test", str(tmp_path), base_url=server.url, remotes=remotes)
    assert (tmp_path / "one.json").read_bytes() == b"1"


def test_wrong_places_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        fetch_benchmark("sugarcrepe", str(file))
    with pytest.raises(ConfigError, match="'mirror.org' is no address of a server"):
        fetch_benchmark("sugarcrepe", str(tmp_path / "new"), base_url="mirror.org")
    (tmp_path / "fetched.json").write_text("{")
    with pytest.raises(DataError, match="delete it and fetch again"):
        fetch_benchmark("sugarcrepe", str(tmp_path))


def test_a_full_disk_is_no_network_problem(server: Server, tmp_path: Path) -> None:
    server.files["/f"] = b"x" * 10
    (tmp_path / "f.part").symlink_to("/dev/full")
    lines: list[str] = []
    with pytest.raises(StorageError, match="the disk is full"):
        download(f"{server.url}/f", tmp_path / "f", report=lines.append, pause_s=0.001)
    assert lines == []


def test_what_a_killed_unpacking_left_goes(tmp_path: Path) -> None:
    (tmp_path / ".unpack-abc").mkdir()
    (tmp_path / ".unpack-abc/half.jpg").write_bytes(b"half")
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped({"new.txt": b"new"}))
    unzip(archive, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "new.txt"]
