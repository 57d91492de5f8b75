"""What the clouds' metadata services say is understood; the services are played by a server on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError

import pytest

from fgray.engine.notices import GCP_SECONDS, aws_notice, gcp_notice


class Service(BaseHTTPRequestHandler):
    """Answers as both clouds document it: AWS only with a token that it gave out, GCP only with its header."""

    going: str | None = None
    failing = False

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token" and int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.answer(200, b"the token")

    def do_GET(self) -> None:
        if self.failing:
            self.answer(500, b"")
        elif self.path == "/latest/meta-data/spot/instance-action" and self.headers["X-aws-ec2-metadata-token"] == "the token":
            self.answer(*(200, json.dumps({"action": "terminate", "time": self.going}).encode()) if self.going else (404, b""))
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self.answer(200, b"TRUE" if self.going else b"FALSE")
        else:
            self.answer(401, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Service]]:
    handler = type("Handler", (Service,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{address}/")
    monkeypatch.setenv("GCE_METADATA_HOST", address)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    yield handler
    server.shutdown()
    server.server_close()


def test_no_notice(service: type[Service]) -> None:
    assert aws_notice() is None and gcp_notice() is None


def test_a_notice_says_when(service: type[Service]) -> None:
    service.going = "2026-11-22T08:22:00Z"
    assert aws_notice() == datetime(2026, 11, 22, 8, 22, tzinfo=UTC).timestamp()
    end = gcp_notice()
    assert end is not None and 0 < end - time.time() <= GCP_SECONDS


def test_a_service_that_fails_is_no_notice_and_no_silence(service: type[Service]) -> None:
    service.failing = True
    for look in (aws_notice, gcp_notice):
        with pytest.raises(HTTPError):
            look()
