"""A process's descendants and the TCP addresses that they listen on, from /proc."""

from __future__ import annotations

import ipaddress
from pathlib import Path

LISTEN = "0A"  # state of a socket in /proc/net/tcp


def addresses(root: int) -> list[str]:
    """Return the distinct IP addresses that `root` and its descendants listen on."""
    inodes = {name for pid in family(root) for name in _sockets(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and f"socket:[{fields[9]}]" in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])  # 32-bit words in host order
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                address = ipaddress.ip_address(packed)
                found.add(str(getattr(address, "ipv4_mapped", None) or address))
    return sorted(found)


def family(root: int) -> set[int]:
    """Return the ids of `root` and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _sockets(pid: int) -> list[str]:
    try:
        return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
