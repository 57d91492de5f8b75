"""Versions: what is installed here is what the job runs with, or it says where it differs."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version
from importlib.metadata import requires as requirements_of

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fgray.errors import RunError
from fgray.registry import PLUGIN_GROUP

EXTRAS = ("demo", "mllm", "text", "faiss", "tracking")  # what jobs may need; the other extras are for developers
NUMBERS = ("torch", "torchvision", "open-clip-torch", "transformers", "numpy", "pillow", "pyarrow")  # another version, other numbers


def pinned() -> dict[str, str]:
    """Return the exact version of fgray's plug-ins and of everything that they and fgray require and that is installed here, by name.

    What an own encoder imports besides is not among them.
    """
    plugins = sorted({canonicalize_name(found.dist.name) for found in entry_points(group=PLUGIN_GROUP) if found.dist is not None})
    found: dict[str, str] = {name: version(name) for name in plugins}
    queue: list[tuple[str, tuple[str, ...]]] = [("fgray", EXTRAS), *((name, ()) for name in plugins)]
    seen: set[tuple[str, str]] = set()
    while queue:
        name, extras = queue.pop()
        for line in requirements_of(name) or []:
            required = Requirement(line)
            key = canonicalize_name(required.name)
            wanted = required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            new = [extra for extra in ("", *sorted(required.extras)) if (key, extra) not in seen]
            if not wanted or not new:
                continue
            try:
                found[key] = distribution(key).version
            except PackageNotFoundError:
                continue  # of an extra that is not installed
            seen.update((key, extra) for extra in new)
            queue.append((key, tuple(required.extras)))
    found.pop("fgray", None)  # travels itself
    return dict(sorted(found.items()))


def to_requirements(pins: dict[str, str]) -> str:
    """Return pins as a requirements file."""
    return "".join(f"{name}=={number}\n" for name, number in pins.items())


def to_install(pins: dict[str, str]) -> list[str]:
    """Return what pip shall install on the nodes: everything but Ray, which runs there, without marks of one machine's builds."""
    return [f"{name}=={Version(number).public}" for name, number in pins.items() if name != "ray"]


def check_runtime(ray_there: str, python_there: str, where: str) -> None:
    """Refuse a cluster that runs another Ray or another Python than this machine.

    Raises:
        RunError: it does.
    """
    ray_here, python_here = version("ray"), platform.python_version()
    if ray_there != ray_here:
        fix = f"install ray=={ray_there} here, or start the cluster with ray {ray_here}"
        raise RunError(f"the cluster runs Ray {ray_there}, this machine has {ray_here}", where=where, fix=fix)
    if python_there.split(".")[:2] != python_here.split(".")[:2]:
        fix = "use the same minor version on both sides"
        raise RunError(f"the cluster runs Python {python_there}, this machine has {python_here}", where=where, fix=fix)


def check_installed(requirements: str) -> list[str]:
    """Compare what is installed here with the pins of the machine that sent the job.

    Args:
        requirements: its requirements file.

    Returns:
        the differences that leave numbers as they are, one line each.

    Raises:
        RunError: one that changes numbers.
    """
    notes: list[str] = []
    grave: list[str] = []
    for line in requirements.split():
        name, _, wanted = line.partition("==")
        try:
            here = version(name)
        except PackageNotFoundError:
            here = "none"
        if here == wanted:
            continue
        same = here != "none" and Version(here).public == Version(wanted).public  # e.g. built for another CUDA
        (grave if name in NUMBERS and not same else notes).append(f"{name} {here} here, {wanted} where the job was sent")
    if grave:
        fix = "install these versions in the nodes' image, or say provider.fgray.dependencies: install"
        raise RunError(f"other versions than those that the job was sent with: {'; '.join(grave)}", where=sys.executable, fix=fix)
    return notes
