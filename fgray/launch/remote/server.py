"""The job server of a cluster: Ray's HTTP interface for jobs, spoken with the cluster's token."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from fgray.errors import RunError
from fgray.launch.clusters.dashboard import TokenError
from fgray.launch.clusters.file import ClusterFile

STOPPED = 130  # exit status of a job that was stopped, as of a command that was interrupted
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED", "GONE")
_VERDICTS = {3: "ended: a gate failed", 4: "ended: the data could not tell"}  # exit statuses that are no mistakes
_SECONDS = 60.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy shall see the token; a tunnel ends on loopback


class NoAnswerError(RunError):
    """The server does not answer now; it may later."""


class UnknownJobError(RunError):
    """The cluster knows no such job."""


@dataclass(frozen=True)
class JobState:
    """What a job does.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED, as Ray says it; GONE where its cluster has been replaced.
        message: why it failed, in Ray's words.
        code: exit status of the job's process; None where there was none.
    """

    id: str
    status: str
    message: str = ""
    code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Return whether nothing more will come of it."""
        return self.status in _ENDED

    @property
    def exit_code(self) -> int | None:
        """Return the exit status for a command that waited for it: the job's own, 130 where it was stopped; None: it runs."""
        if not self.ended:
            return None
        if self.status == "STOPPED":
            return STOPPED
        return 0 if self.status == "SUCCEEDED" else self.code if self.code and self.code > 0 else 1

    def in_words(self) -> str:
        """Return how it does."""
        if self.status == "FAILED":
            return _VERDICTS.get(self.exit_code or 1, f"failed with exit status {self.exit_code}")
        return {"SUCCEEDED": "ended", "PENDING": "waits", "GONE": "is gone with its cluster"}.get(self.status, self.status.lower())


class JobServer:
    """A job server that is reached.

    Args:
        address: of the dashboard, as this machine reaches it.
        token: the cluster's token; "": none.
        where: the cluster, as errors shall name it.
    """

    def __init__(self, address: str, token: str, where: str) -> None:
        self._address, self._where = address.rstrip("/"), where
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def versions(self) -> tuple[str, str]:
        """Return the cluster's versions of Ray and Python."""
        data = self._ask("GET", "/api/v0/cluster_metadata")["data"]
        return str(data["rayVersion"]), str(data["pythonVersion"])

    def upload(self, name: str, package: bytes) -> str:
        """Hand a zip file to the cluster, unless it has it, and return its address for a runtime environment."""
        address = f"/api/packages/gcs/{name}"
        if self._call("GET", address, missing=True) is None:
            self._call("PUT", address, package)  # its bytes in blocks, each of which has the whole time limit
        return f"gcs://{name}"

    def submit(self, job: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Start a job under an id of its own."""
        content = {"submission_id": job, "entrypoint": entrypoint, "runtime_env": runtime_env, "metadata": metadata}
        self._ask("POST", "/api/jobs/", content)

    def state(self, job: str) -> JobState:
        """Return what a job does.

        Raises:
            UnknownJobError: the cluster knows no such job.
        """
        found = self._call("GET", f"/api/jobs/{_quoted(job)}", missing=True)
        if found is None:
            raise UnknownJobError(
                f"the cluster knows no job '{job}'", where=self._where, fix="`fgray jobs --cluster FILE` lists those that it has"
            )
        return _state(self._parsed(found))

    def states(self) -> list[JobState]:
        """Return every job that fgray sent, the newest first."""
        found = [item for item in self._ask("GET", "/api/jobs/") if (item.get("metadata") or {}).get("fgray")]
        return [_state(item) for item in sorted(found, key=lambda item: -(item.get("start_time") or 0))]

    def stop(self, job: str) -> None:
        """Ask a job to stop: its driver is told first, and killed when it has not ended after its time of grace."""
        self._ask("POST", f"/api/jobs/{_quoted(job)}/stop")

    def log(self, job: str) -> str:
        """Return what a job has written so far."""
        return str(self._ask("GET", f"/api/jobs/{_quoted(job)}/logs")["logs"])

    async def tail(self, job: str) -> AsyncIterator[str]:
        """Yield what a job writes, from its beginning to its end.

        Raises:
            NoAnswerError: the connection broke.
        """
        import aiohttp

        url = f"{self._address.replace('http', 'ws', 1)}/api/jobs/{_quoted(job)}/logs/tail"
        try:
            async with aiohttp.ClientSession(headers=self._headers) as session, session.ws_connect(url, heartbeat=20) as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        yield message.data
                if socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
                    raise NoAnswerError("the connection to the job broke", where=self._where)
        except aiohttp.WSServerHandshakeError as error:
            raise self._refused(error.status, error.message) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NoAnswerError(f"the connection to the job broke ({error})", where=self._where) from error

    def _ask(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        answer = self._call(method, path, None if content is None else json.dumps(content).encode()) or b"null"
        return self._parsed(answer)

    def _parsed(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise NoAnswerError("the cluster's answer is not JSON", where=self._where, fix="see the logs of its dashboard") from error

    def _call(self, method: str, path: str, body: bytes | None = None, missing: bool = False) -> bytes | None:
        """Return the answer; None for one that says that there is no such thing, where it may be missing."""
        headers = {**self._headers, "Content-Type": "application/json"}
        if body is not None:
            headers["Content-Length"] = str(len(body))
        data = None if body is None else io.BytesIO(body)
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        try:
            with _DIRECT.open(request, timeout=_SECONDS) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            if missing and error.code == 404:
                return None
            raise self._refused(error.code, error.read(2000).decode(errors="replace")) from error
        except (OSError, HTTPException) as error:  # the latter: half an answer
            reason = getattr(error, "reason", error)
            raise NoAnswerError(
                f"the cluster does not answer ({reason})", where=self._where, fix="`fgray cluster status FILE` says more"
            ) from error

    def _refused(self, code: int, text: str) -> RunError:
        if code in (401, 403):
            fix = "`fgray cluster up` names its file; where the cluster file states an address, RAY_AUTH_TOKEN_PATH may name another one"
            return TokenError("the cluster refuses the token" if self._headers else "the cluster wants a token", where=self._where, fix=fix)
        lines = text.strip().splitlines() or [str(code)]
        return RunError(f"the job server refuses ({lines[-1][:300]})", where=self._where, fix="see the logs of its dashboard")


@contextmanager
def job_server(file: ClusterFile) -> Iterator[JobServer]:
    """Reach a cluster's job server while the body runs.

    Raises:
        RunError: the cluster does not run, or refuses the token.
    """
    from fgray.launch.clusters.lifecycle import reach, token_file

    with reach(file) as address:
        token = token_file(file)
        yield JobServer(address, token.read_text().strip() if token.exists() else "", file.path)


def _state(item: Mapping[str, Any]) -> JobState:
    names = ("submission_id", "status", "message", "driver_exit_code", "metadata")
    job, status, message, code, metadata = (item.get(name) for name in names)
    return JobState(str(job), str(status), str(message or ""), code, metadata or {})


def _quoted(job: str) -> str:
    return quote(job, safe="")
