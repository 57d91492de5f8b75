"""Environment variables that travel with a job: those that its configuration names, and never a secret."""

from __future__ import annotations

import os
import re
from typing import Any

from fgray.config.source import variables
from fgray.errors import ConfigError

_SECRET = re.compile(r"SECRET|(^|_)TOKEN(_|$)|PASS|PWD|CREDENTIAL|PRIVATE|(ACCESS|API|AUTH)_?KEY|_KEY$|^KEY$|_PAT$", re.IGNORECASE)
_WITH_PASSWORD = re.compile(r"://[^/\s]*@|[?&](sig|signature|x-amz-signature)=", re.IGNORECASE)


def refuse_credentials(address: str, where: str) -> None:
    """Refuse an address with a name, a password or a signature in it: run folders, logs and listings of jobs would show it.

    Raises:
        ConfigError: it has one.
    """
    if _WITH_PASSWORD.search(address):
        fix = "write the bare address, and give the nodes the right by their role"
        what = "the address has credentials in it, and everybody who may list the cluster's jobs would read them"
        raise ConfigError(what, where=where, fix=fix)


def named_variables(source: Any, where: str) -> dict[str, str]:
    """Return the variables that a configuration names, with their values here or else their defaults: the nodes may have others.

    Args:
        source: the configuration as written.
        where: its file, for messages.

    Raises:
        ConfigError: one of them looks like a secret: whoever may list the cluster's jobs would read it. Or one that is not set has two
            defaults.
    """
    found: dict[str, str] = {}
    for name, default in sorted(variables(source), key=str):
        value = os.environ.get(name, default)
        if value is not None and found.setdefault(name, value) != value:
            raise ConfigError(f"{name} has two defaults", where=where, fix=f"write one, or export {name}")
    for name, value in found.items():
        if _SECRET.search(name) or _WITH_PASSWORD.search(value):
            fix = (
                "give the nodes the right by their role, or set it in their own environment, and take ${"
                + name
                + "} out of the configuration"
            )
            raise ConfigError(
                f"{name} looks like a secret, and everybody who may list the cluster's jobs would read it", where=where, fix=fix
            )
    return found
