"""A real S3 server behind a line that fails: resets, 503 SlowDown, silence; and addresses where nobody is."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from fgray.errors import StorageError
from fgray.storage import open_storage, s3
from tests.integration.conftest import use_server
from tests.integration.s3_servers import S3Server

pytestmark = pytest.mark.s3
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FaultyLine:
    """Forwards TCP connections to a server; the next ones suffer the faults in `faults`, in order.

    Faults: "reset" (RST at once), "late reset" (RST once the request has arrived), "busy" (503), "silent" (no answer).
    """

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self.target = (parts.hostname, parts.port)
        self.faults: list[str] = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                fault = self.faults.pop(0) if self.faults else ""
                threading.Thread(target=self._serve, args=(connection, fault), daemon=True).start()

    def _serve(self, connection: socket.socket, fault: str) -> None:
        with contextlib.suppress(OSError), connection:
            if fault == "silent":
                while connection.recv(1 << 16):
                    pass
                return
            if fault:
                if fault != "reset":
                    connection.recv(1 << 16)
                if fault == "busy":
                    lines = ["HTTP/1.1 503 Slow Down", "Content-Type: application/xml", f"Content-Length: {len(BUSY)}", "Connection: close"]
                    connection.sendall("\r\n".join([*lines, "", ""]).encode() + BUSY)
                    return
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            with socket.create_connection(self.target) as onward:
                back = threading.Thread(target=_pump, args=(onward, connection), daemon=True)
                back.start()
                _pump(connection, onward)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(juicefs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyLine]:
    use_server(juicefs_server, monkeypatch)
    line = FaultyLine(juicefs_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    yield line
    line.listener.close()


@pytest.mark.parametrize("fault", ["reset", "late reset", "busy"])
@pytest.mark.parametrize("action", ["read", "write", "create", "list"])
def test_passing_faults_do_not_show(line: FaultyLine, juicefs_server: S3Server, fault: str, action: str) -> None:
    uri = f"s3://{juicefs_server.new_bucket()}/p"
    open_storage(uri).write_bytes("x", b"1")
    line.faults = [fault] * 3
    storage = open_storage(uri)
    if action == "read":
        assert storage.read_bytes("x") == b"1"
    elif action == "write":
        storage.write_bytes("x", b"2")
        assert storage.read_bytes("x") == b"2"
    elif action == "create":
        assert storage.create_bytes("y", b"3") and storage.read_bytes("y") == b"3"
    else:
        assert [info.path for info in storage.list()] == ["x"]
    assert line.faults == []


def test_lasting_trouble_ends_in_one_line(line: FaultyLine, juicefs_server: S3Server) -> None:
    uri = f"s3://{juicefs_server.new_bucket()}/p"
    for fault in ("reset", "busy"):
        line.faults, before = [fault] * 99, line.connections
        with pytest.raises(StorageError, match=r"the S3 store does not answer .*: check AWS_ENDPOINT_URL and the network"):
            open_storage(uri).read_bytes("x")
        assert 4 <= line.connections - before <= 12  # tried again, but not for ever


def test_a_refusal_is_not_tried_again(line: FaultyLine, juicefs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"s3://{juicefs_server.new_bucket()}/p"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    before = line.connections
    with pytest.raises(StorageError, match="refused the credentials"):
        open_storage(uri).read_bytes("x")
    assert line.connections - before == 1


def test_a_silent_server_is_given_up(line: FaultyLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "REQUEST_TIMEOUT", 1.0)
    line.faults = ["silent"] * 99
    start = time.monotonic()
    with pytest.raises(StorageError, match="the S3 store does not answer"):
        open_storage("s3://bucket/p").read_bytes("x")
    assert 4 < time.monotonic() - start < 30


def test_nobody_listens(line: FaultyLine, monkeypatch: pytest.MonkeyPatch) -> None:
    line.listener.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for action in (lambda s: s.write_bytes("x", b"1"), lambda s: s.create_bytes("x", b"")):
        start = time.monotonic()
        with pytest.raises(StorageError, match=r"does not answer .* at 127\.0\.0\.1:9\]: check AWS_ENDPOINT_URL"):
            action(open_storage("s3://bucket/p"))
        assert time.monotonic() - start < 15


@pytest.mark.slow
def test_a_host_that_swallows_packets(line: FaultyLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full drops connection attempts, as an unreachable host does."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(StorageError, match="does not answer"):
            open_storage("s3://bucket/p").read_bytes("x")
        assert 10 < time.monotonic() - start < 32


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://x", "http://key:secret@host", "http://host/path"])
def test_a_malformed_endpoint(line: FaultyLine, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL is not an http") as caught:
        open_storage("s3://bucket/p").read_bytes("x")
    assert "secret" not in str(caught.value)
