"""Asks a cluster's dashboard over HTTP, with the cluster's token."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from fgray.errors import RunError

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a tunnel's end is on loopback, where no proxy is wanted
SECONDS = 20.0


class TokenError(RunError):
    """The cluster wants another token than it was given."""


class NotUpError(RunError):
    """There is no such cluster now: it may be started without harm to anybody's jobs."""


def get(address: str, path: str, token: Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Return the JSON that the dashboard answers.

    Raises:
        TokenError: the token is refused.
        RunError: nobody answers there.
    """
    headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}
    url = f"{address.rstrip('/')}/{path}"
    try:
        with _DIRECT.open(urllib.request.Request(url, headers=headers), timeout=seconds) as answer:
            content: dict[str, Any] = json.load(answer)
            return content
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            fix = f"the cluster's token belongs into {token}; for a cluster that its file gives an address, RAY_AUTH_TOKEN_PATH may name it"
            raise TokenError("the cluster refuses the token" if headers else "the cluster wants a token", where=address, fix=fix) from error
        raise RunError(f"the cluster's dashboard answers {error.code} {error.reason}", where=url, fix="see the dashboard's logs") from error
    except (OSError, ValueError, HTTPException) as error:  # the latter two: half an answer
        reason = getattr(error, "reason", error)
        raise RunError(f"the cluster does not answer ({reason})", where=address, fix="`fgray cluster status FILE` says more") from error


def answers(address: str, token: Path) -> bool:
    """Return whether a dashboard is there.

    Raises:
        TokenError: it is, and refuses the token.
    """
    try:
        return "ray_version" in get(address, "api/version", token, 5.0)
    except TokenError:
        raise
    except RunError:
        return False
