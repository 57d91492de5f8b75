"""Jobs on a cluster: found again, looked at, followed and stopped."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fgray.errors import FgrayError, RunError
from fgray.launch.clusters.dashboard import NotUpError, TokenError
from fgray.launch.clusters.file import ClusterFile, load_cluster
from fgray.launch.remote.records import Record, all_records, find_record
from fgray.launch.remote.server import JobState, UnknownJobError, job_server
from fgray.launch.remote.stream import PATIENCE_SECONDS, follow

_log = logging.getLogger(__name__)

GRACE_SECONDS = 30  # for a driver that was told to stop: fgray ends its workers and releases its lock in a few
_STOP_SECONDS = GRACE_SECONDS + 30.0


@dataclass(frozen=True)
class RemoteJob:
    """A job on a cluster."""

    id: str
    cluster: ClusterFile
    record: Record | None

    def goes_on(self) -> bool:
        """Return whether it has not ended; with its cluster, a job is gone.

        Raises:
            RunError: the cluster cannot be reached, or refuses the token: nobody can tell.
        """
        try:
            return not self.state().ended
        except (NotUpError, UnknownJobError):
            return False

    def state(self) -> JobState:
        """Return what it does."""
        with job_server(self.cluster) as server:
            return self._seen(server.state(self.id))

    def states(self, poll_seconds: float) -> Iterator[JobState]:
        """Yield what it does again and again until it has ended, through times in which its cluster does not answer.

        Raises:
            RunError: the cluster does not know it, refuses the token, or has not answered for ten minutes.
        """
        met = time.monotonic()
        while True:
            try:
                state = self.state()
            except (TokenError, UnknownJobError):
                raise
            except RunError:
                if time.monotonic() - met > PATIENCE_SECONDS:
                    raise
            else:
                met = time.monotonic()
                yield state
                if state.ended:
                    return
            time.sleep(poll_seconds)

    def log(self) -> str:
        """Return what it has written so far."""
        with job_server(self.cluster) as server:
            return server.log(self.id)

    def follow(self, write: Callable[[str], None], note: Callable[[str], None]) -> JobState:
        """Hand on what it writes until it has ended, and return how it ended; see `stream.follow`.

        What a run that succeeded has measured calibrates the plans that are made here.
        """
        state = self._seen(follow(lambda: job_server(self.cluster), self.id, write, note))
        output = state.metadata.get("output")
        if state.exit_code == 0 and output:
            from fgray.launch.plan.learn import learn_from

            try:
                learn_from(output)
            except Exception as error:  # a run folder that only the nodes can read, or of another version: no plan is worth a job's status
                _log.info("nothing is learnt from %s: %s", output, error)
        return state

    def stop(self) -> JobState:
        """Stop it, wait until it has stopped, and return how it ended.

        Raises:
            RunError: it has not.
        """
        with job_server(self.cluster) as server:
            state = server.state(self.id)
            deadline = time.monotonic() + _STOP_SECONDS
            while not state.ended:
                server.stop(self.id)  # again, too: a job that has just been sent has nobody yet who would listen
                time.sleep(1.0)
                state = server.state(self.id)
                if not state.ended and time.monotonic() > deadline:
                    fix = f"try again, or stop the cluster: fgray cluster down {self.cluster.path}"
                    raise RunError(f"the job '{self.id}' has not stopped", where=self.cluster.path, fix=fix)
            return self._seen(state)

    def _seen(self, state: JobState) -> JobState:
        if self.record is not None:
            with contextlib.suppress(OSError):  # a full disk here is no reason to lose sight of the job
                self.record.seen(state)
        return state


def remote_job(job: str | None = None, cluster: str | None = None) -> RemoteJob:
    """Return a job by its id, or the newest.

    Args:
        job: its id; None: the newest that was sent from here or, where a cluster is named, that it has.
        cluster: cluster file of a job that was sent elsewhere.

    Raises:
        ConfigError: there is no such record or no such cluster file.
        RunError: the cluster has no job, or cannot be reached.
    """
    if cluster is None:
        record = find_record(job)
        return RemoteJob(record.id, load_cluster(record.cluster), record)
    file = load_cluster(cluster)
    if job is None:
        with job_server(file) as server:
            states = server.states()
        if not states:
            raise RunError("the cluster has no job of fgray's", where=file.path, fix=f"fgray submit CONFIG --cluster {cluster}")
        job = states[0].id
    return RemoteJob(job, file, next((record for record in all_records() if record.id == job), None))


def list_jobs(cluster: str | None = None) -> list[dict[str, str]]:
    """Return the jobs of a cluster or, where none is named, those that were sent from here: id, status, cluster, output, config.

    Of the latter, those that had not ended are looked at again; where their cluster does not answer, their status says so.

    Raises:
        RunError: the cluster that is named cannot be reached.
    """
    if cluster is not None:
        with job_server(load_cluster(cluster)) as server:
            return [
                {
                    "id": state.id,
                    "status": state.in_words(),
                    "output": state.metadata.get("output", ""),
                    "config": state.metadata.get("config", ""),
                }
                for state in server.states()
            ]
    records = all_records()
    lost: set[str] = set()
    for place in {record.cluster for record in records if not _state_of(record).ended}:
        try:
            with job_server(load_cluster(place)) as server:
                now = {state.id: state for state in server.states()}
        except FgrayError:
            lost.add(place)
            continue
        gone = JobState("", "GONE")
        records = [
            record.seen(now.get(record.id, gone)) if record.cluster == place and not _state_of(record).ended else record
            for record in records
        ]
    return [_row(record, lost) for record in records]


def _row(record: Record, lost: set[str]) -> dict[str, str]:
    state = _state_of(record)
    unknown = " when last seen; its cluster does not answer" if record.cluster in lost and not state.ended else ""
    return {
        "id": record.id,
        "status": state.in_words() + unknown,
        "output": record.output,
        "config": record.config,
        "cluster": record.cluster,
    }


def _state_of(record: Record) -> JobState:
    return JobState(record.id, record.status, code=record.exit_code)
