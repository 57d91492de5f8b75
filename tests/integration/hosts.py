"""Separate hosts on one machine: network namespaces on a bridge, each with mounts of its own, so that only the network is common."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# Runs a command where HOME, the temporary folder and the checkout are empty. What Python itself is made of stays, read-only.
PRIVATE = """
set -e
keep=$(mktemp -d /run/fgray-keep-XXXXXX)
mount --make-rprivate /
mount --bind "$PREFIX" "$keep"
for folder in /tmp "$HOST_HOME" "$CHECKOUT"; do mkdir -p "$folder"; mount -t tmpfs -o size=2g none "$folder"; done
mkdir -p "$PREFIX" && mount --bind "$keep" "$PREFIX" && mount -o remount,ro,bind "$PREFIX"
cd "$CHECKOUT"
exec "$@"
"""


@dataclass(frozen=True)
class Host:
    """A namespace with one address."""

    name: str
    address: str
    home: str

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a command on this host, with nothing of this machine's files but its programs."""
        told = {**environment, "HOME": self.home, "HOST_HOME": self.home, "PREFIX": sys.prefix, "CHECKOUT": str(PROJECT)}
        inside = ["ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", PRIVATE, "private", *command]
        with log.open("ab") as output:
            return subprocess.Popen(inside, env=told, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)

    def reached_from_here(self, command: Sequence[str]) -> list[str]:
        """Return a command that sees this machine's files and this host's network: a laptop beside it."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut_off(self) -> None:
        """Take the host's link down."""
        ip("-n", self.name, "link", "set", "eth0", "down")

    def processes(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]


def missing() -> str:
    """Return why this machine cannot play several hosts, or ""."""
    if os.geteuid() != 0:
        return "namespaces need root"
    absent = [name for name in ("ip", "unshare", "mount") if shutil.which(name) is None]
    if absent:
        return f"namespaces need {', '.join(absent)} (iproute2, util-linux)"
    probe = f"fg{os.getpid()}p"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "this container may not make namespaces"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return ""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Yield so many hosts on one network of their own; at the end everything on them is killed."""
    if reason := missing():
        pytest.skip(reason)
    label = f"fg{os.getpid()}"
    lan, made = f"{label}lan", []
    try:
        ip("netns", "add", lan)
        made.append(lan)
        ip("-n", lan, "link", "add", "br0", "type", "bridge")
        ip("-n", lan, "link", "set", "br0", "up")
        found = []
        for number in range(1, count + 1):
            host = Host(f"{label}h{number}", f"10.77.0.{number}", f"/run/{label}h{number}")
            ip("netns", "add", host.name)
            made.append(host.name)
            ip("-n", host.name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", lan)
            ip("-n", lan, "link", "set", f"port{number}", "master", "br0", "up")
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host.name, "link", "set", device, "up")
            ip("-n", host.name, "route", "add", "default", "dev", "eth0")
            found.append(host)
        yield found
    finally:
        for name in reversed(made):
            _empty(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        for keep in Path("/run").glob("fgray-keep-*"):
            with contextlib.suppress(OSError):
                keep.rmdir()
        for home in Path("/run").glob(f"{label}h*"):
            with contextlib.suppress(OSError):
                home.rmdir()


def _empty(name: str) -> None:
    host = Host(name, "", "")
    deadline = time.monotonic() + 20
    while (pids := host.processes()) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
