"""What this machine remembers of the jobs that it sent, so that they are found again: one small file each, for their user alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fgray.errors import ConfigError, did_you_mean
from fgray.launch.clusters.state import write_private
from fgray.launch.remote.server import JobState


@dataclass(frozen=True)
class Record:
    """A job that was sent from here.

    Attributes:
        id: its id on the cluster.
        cluster: the cluster file, absolute.
        config: the configuration, as it was named in `folder`.
        overrides: what followed ``--set``.
        folder: where the command was typed.
        output: the run folder, as the job sees it.
        submitted: when, in UTC.
        status: as last seen, see `JobState`.
        exit_code: as last seen.
    """

    id: str
    cluster: str
    config: str
    overrides: tuple[str, ...]
    folder: str
    output: str
    submitted: str
    status: str = "PENDING"
    exit_code: int | None = None

    def save(self) -> None:
        """Write the record."""
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in (folder, folder.parent):
            part.chmod(0o700)
        write_private(folder / f"{self.id}.json", json.dumps(asdict(self), indent=1) + "\n")

    def forget(self) -> None:
        """Remove the record of a job that was refused."""
        (_folder() / f"{self.id}.json").unlink(missing_ok=True)

    def seen(self, state: JobState) -> Record:
        """Write down how the job does, and return the new record."""
        new = Record(**{**asdict(self), "overrides": self.overrides, "status": state.status, "exit_code": state.exit_code})
        if new != self:
            new.save()
        return new


def all_records() -> list[Record]:
    """Return what is remembered, the newest first; files that are no records are passed over."""
    found = []
    for path in _folder().glob("*.json"):
        try:
            content = json.loads(path.read_text())
            found.append(Record(**{**content, "overrides": tuple(content["overrides"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda record: (record.submitted, record.id), reverse=True)


def find_record(job: str | None) -> Record:
    """Return the record of a job, or the newest.

    Raises:
        ConfigError: there is none.
    """
    known = all_records()
    if not known:
        fix = "send one with fgray submit CONFIG --cluster FILE, or name the cluster of one sent elsewhere: ID --cluster FILE"
        raise ConfigError("no job was sent from here", where=str(_folder()), fix=fix)
    if job is None:
        return known[0]
    for record in known:
        if record.id == job:
            return record
    fix = did_you_mean(job, [record.id for record in known[:20]]) + "; of a job sent elsewhere, name the cluster: --cluster FILE"
    raise ConfigError(f"no job '{job}' was sent from here", where=str(_folder()), fix=fix)


def _folder() -> Path:
    return Path.home() / ".fgray" / "jobs"
