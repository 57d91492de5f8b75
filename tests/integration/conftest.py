"""The S3 servers as fixtures; `s3_server` runs a test on each of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.s3_servers import S3Server, ceph_gateway, ceph_missing, juicefs_gateway


@pytest.fixture(scope="session")
def juicefs_server() -> Iterator[S3Server]:
    """A running `juicefs gateway`."""
    with tempfile.TemporaryDirectory(prefix="fgray-juicefs-") as folder, juicefs_gateway(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[S3Server]:
    """A running Ceph radosgw, where its packages are installed."""
    missing = ceph_missing()
    if missing:
        message = f"Ceph needs {', '.join(missing)}: as root, apt-get install radosgw ceph-mon ceph-osd ceph-common"
        if os.environ.get("FGRAY_REQUIRE_CEPH") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with tempfile.TemporaryDirectory(prefix="fgray-ceph-", ignore_cleanup_errors=True) as folder, ceph_gateway(Path(folder)) as server:
        yield server


SERVERS = [pytest.param(name, marks=pytest.mark.s3) for name in ("juicefs", "ceph")]


@pytest.fixture(params=SERVERS)
def s3_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Each real S3 server in turn; the environment of this process points at it."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    use_server(server, monkeypatch)
    return server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """A fresh bucket on the server, as s3://NAME."""
    return f"s3://{s3_server.new_bucket()}"


def use_server(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the AWS_* variables of this process at a server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
