"""The job server's answers, whole and broken; the server is played on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fgray.errors import RunError
from fgray.launch.clusters.dashboard import answers
from fgray.launch.remote import server as module
from fgray.launch.remote.server import JobServer, JobState, NoAnswerError, UnknownJobError
from fgray.launch.remote.stream import follow


@contextmanager
def playing(answer: Callable[[bytes], bytes], receive: Callable[[socket.socket], bytes] | None = None) -> Iterator[str]:
    """Answer each request, whose first line and headers are given, with these bytes, and close the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(answer((receive or (lambda sock: sock.recv(65536)))(connection)))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def ok(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (length or len(body)) + body


@pytest.mark.parametrize("broken", [ok(b'{"logs": "abc', 1000), b"not http\r\n\r\n", b"", ok(b"<html>")])
def test_half_an_answer_is_no_answer(broken: bytes) -> None:
    with playing(lambda request: broken) as address, pytest.raises(NoAnswerError, match=r"\[far.yaml\]"):
        JobServer(address, "t", "far.yaml").log("job")


def test_an_id_is_no_path() -> None:
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        asked.append(request.split(b"\r\n")[0])
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    with playing(answer) as address, pytest.raises(UnknownJobError):
        JobServer(address, "t", "far.yaml").state("my job/../?x")
    assert asked == [b"GET /api/jobs/my%20job%2F..%2F%3Fx HTTP/1.1"]


def test_an_upload_may_take_longer_than_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is for each block: a slow line is no dead one."""
    monkeypatch.setattr(module, "_SECONDS", 1.0)
    package = bytes(range(256)) * (1 << 16)  # 16 MiB, more than the buffers on the way hold
    sent: list[bytes] = []

    def receive(connection: socket.socket) -> bytes:
        request = connection.recv(65536)
        if request.startswith(b"PUT"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            head, _, body = request.partition(b"\r\n\r\n")
            pieces, got, begun = [body], len(body), time.monotonic()
            while got < len(package):
                pieces.append(connection.recv(1 << 20))
                got += len(pieces[-1])
                if time.monotonic() - begun < 2.5:
                    time.sleep(0.1)
            sent.append(b"".join(pieces))
            return head
        return request

    def answer(request: bytes) -> bytes:
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" if request.startswith(b"GET") else ok(b"{}")

    with playing(answer, receive) as address:
        assert JobServer(address, "t", "far.yaml").upload("p.zip", package) == "gcs://p.zip"
    assert sent == [package]


def test_a_refused_token_is_not_silence(tmp_path: Path) -> None:
    """Who took it for silence would start the cluster anew, and end its jobs."""
    with playing(lambda request: b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n") as address:
        token = tmp_path / "none"
        with pytest.raises(RunError, match="the cluster wants a token"):
            answers(address, token)
    assert not answers(address, tmp_path / "none")  # nobody is there any more


class _Unreadable:
    """A server whose job has ended and whose log cannot be read."""

    def state(self, job: str) -> JobState:
        return JobState(job, "FAILED", code=3)

    async def tail(self, job: str):  # type: ignore[no-untyped-def]
        yield "one\n"

    def log(self, job: str) -> str:
        raise RunError("the job server refuses (not UTF-8)")


def test_a_log_that_cannot_be_read_costs_no_exit_status() -> None:
    @contextmanager
    def reach() -> Iterator[JobServer]:
        yield _Unreadable()  # type: ignore[misc]

    written, notes = [], []
    assert follow(reach, "job", written.append, notes.append).exit_code == 3
    assert written == ["one\n"] and notes == ["the end of the log cannot be read (the job server refuses (not UTF-8))"]
