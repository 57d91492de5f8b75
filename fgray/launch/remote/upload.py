"""What travels with a job: the package, the job's script, the configuration, small files of the user's, and the pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import fgray
from fgray.errors import ConfigError, RunError
from fgray.launch.clusters.file import MOST_UPLOAD_MIB
from fgray.launch.entry import PINS
from fgray.launch.remote.locations import Relocated, files_below

CONFIG = "config.yaml"
LARGEST = 10  # files that the user is told of
Content = Path | bytes


@dataclass(frozen=True)
class Upload:
    """The folder that becomes a job's working directory, not yet written.

    Attributes:
        files: path below it -> a file here, or what shall stand there.
        owners: path below it -> key of the configuration that needs it; the rest is code.
    """

    files: dict[PurePosixPath, Content]
    owners: dict[PurePosixPath, str]

    def sizes(self) -> dict[PurePosixPath, int]:
        """Return the size of every file in bytes."""
        return {path: len(item) if isinstance(item, bytes) else item.stat().st_size for path, item in self.files.items()}

    def check(self, most: int, cluster: str) -> Iterator[str]:
        """Yield what is uploaded, as lines for the user.

        Args:
            most: bytes that may travel.
            cluster: the cluster file, for the remedy.

        Raises:
            ConfigError: it is more.
        """
        sizes = self.sizes()
        total = sum(sizes.values())
        largest = sorted(sizes, key=lambda path: (-sizes[path], path))[:LARGEST]
        if total > most:
            by_key: dict[str, int] = {}
            for path, key in self.owners.items():
                by_key[key] = by_key.get(key, 0) + sizes[path]
            key = max(by_key, key=lambda key: by_key[key], default="the package itself")
            what = f"the job would upload {in_words(total)}, more than {in_words(most)}; {key} is {in_words(by_key.get(key, total))} of it"
            fix = f"copy that to s3://BUCKET/… and name it there in {key}"
            fix += ", or raise provider.fgray.upload_mib" if most < MOST_UPLOAD_MIB << 20 else ""
            raise ConfigError(what, where=cluster, fix=fix)
        yield f"uploads {in_words(total)} in {len(sizes)} files; the largest:"
        yield from (f"  {in_words(sizes[path]):>10}  {path}" for path in largest)


def gather(job: str, moved: Relocated, config: str, pins: str) -> Upload:
    """Collect everything that a job needs.

    Args:
        job: its kind.
        moved: its own files.
        config: the configuration for the cluster, as YAML.
        pins: the versions of what is installed here.

    Raises:
        RunError: this installation lacks the script of the job.
        ConfigError: a module of the user's has the name of something else that travels.
    """
    files: dict[PurePosixPath, Content] = {}
    package = Path(fgray.__file__).parent
    for file in files_below(package):
        path = PurePosixPath(file.relative_to(package).as_posix())
        if path.parts[0] != _JOBS_IN_WHEEL:
            files[PurePosixPath("fgray") / path] = file
    files[PurePosixPath("jobs", f"{job}.py")] = _script(package, job)
    # So that the job knows fgray's version on nodes where it is not installed.
    known = version("fgray")
    files[PurePosixPath(f"fgray-{known}.dist-info", "METADATA")] = f"Metadata-Version: 2.1\nName: fgray\nVersion: {known}\n".encode()
    files[PurePosixPath(CONFIG)] = config.encode()
    files[PurePosixPath(PINS)] = pins.encode()
    roots = {path.parts[0] for path in files}
    for path, file in moved.files.items():
        if path.parts[0] in roots:
            what = f"the module {path} has the name of something that travels with every job"
            raise ConfigError(what, where=moved.owners[path], fix="rename it")
        files[path] = file
    return Upload(files, moved.owners)


_JOBS_IN_WHEEL = "_jobs"  # see force-include in pyproject.toml


def _script(package: Path, job: str) -> Path:
    for folder in (package / _JOBS_IN_WHEEL, package.parent / "jobs"):
        if (folder / f"{job}.py").is_file():
            return folder / f"{job}.py"
    raise RunError(f"this installation has no jobs/{job}.py", where=str(package), fix="install fgray again")


def in_words(size: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
